import pytest

from fixtures.lab import Lab
from fixtures.processes import DaemonProcess, NotReady, PluginCall

pytestmark = pytest.mark.kernel


@pytest.fixture
def node():
    with Lab(1) as lab:
        yield lab.nodes[0]


@pytest.fixture
def daemon(node, tmp_path):
    with DaemonProcess(node, tmp_path / "state", "--pod-cidr", "10.244.1.0/24") as running:
        running.wait_ready()
        yield running


def conf(daemon):
    return {"cniVersion": "1.1.0", "name": "pods", "type": "headcni", "state_dir": str(daemon.state_dir)}


def test_a_pod_is_added_and_deleted(node, daemon):
    pod = node.new_pod_netns()
    added = PluginCall(node, conf(daemon), "ADD", "box1", pod.path).call()
    assert node.ping(added.address)
    deleted = PluginCall(node, conf(daemon), "DEL", "box1", pod.path).call()
    assert (deleted.code, deleted.json) == (0, None)


def test_calls_run_side_by_side(node, daemon):
    calls = [PluginCall(node, conf(daemon), "ADD", f"box{n}", node.new_pod_netns().path).start() for n in range(3)]
    assert len({call.wait().address for call in calls}) == 3


def test_a_failed_call_has_no_address(node, daemon):
    answer = PluginCall(node, conf(daemon), "ADD", "box1", "/run/netns/none").call()
    assert answer.json["code"] == 3
    with pytest.raises(RuntimeError, match="/run/netns/none"):
        _ = answer.address


def test_a_killed_daemon_is_not_ready_whatever_it_wrote(daemon):
    daemon.kill()
    assert daemon.status()["ready"] is True
    assert not daemon.ready
    daemon.start()
    daemon.wait_ready()


def test_a_daemon_that_ends_at_once_shows_its_log(node, tmp_path):
    daemon = DaemonProcess(node, tmp_path / "state", "--pod-cidr", "nonsense")
    with daemon, pytest.raises(NotReady, match="nonsense"):
        daemon.wait_ready()


def test_a_stopped_daemon_ends_well(daemon):
    assert daemon.stop() == 0
