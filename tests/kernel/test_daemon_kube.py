"""A daemon with an API server beside it: it tells its Node the truth, and no pod waits for that."""

import http.client
import json
import signal
import subprocess
import sys
import time

import pytest

from fixtures.processes import REPOSITORY, DaemonProcess
from fixtures.site import Site, wait_until

pytestmark = pytest.mark.kernel

NODE = "/api/v1/nodes/node-0"
SOON = 5.0  # seconds
AT_ONCE = 2.0  # seconds an ADD may take on a busy machine; far less than any time-out of the API


class Api:
    """The stand-in as a process on the node."""

    def __init__(self, node, port=0):
        self._node = node
        command = (sys.executable, "-m", "fixtures.kube", "--port", str(port), "--pods", "3")
        self.process = node.popen(*command, cwd=REPOSITORY, stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline().rpartition(b":")[2])

    def told(self):
        """What the Node says of its network."""
        with self._node.entered():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", NODE)
            node = json.loads(connection.getresponse().read())
            connection.close()
        conditions = {each["type"]: each for each in node["status"]["conditions"]}
        told = conditions.get("NetworkUnavailable", {})
        return told.get("status"), told.get("reason"), node["metadata"]["annotations"].get("headcni.io/pod-cidr")

    def give(self, cidr):
        """The Node was registered anew, and got another one."""
        self._patch({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})

    def wipe(self):
        """What was told is not there any more."""
        self._patch({"status": {"conditions": []}, "metadata": {"annotations": {"headcni.io/pod-cidr": None}}})

    def _patch(self, body):
        with self._node.entered():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("PATCH", NODE, json.dumps(body), {"Content-Type": "application/merge-patch+json"})
            assert connection.getresponse().status == 200
            connection.close()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def api(node):
    made = Api(node)
    yield made
    made.end()


def arguments(api, directory):
    kubeconfig = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "lab", "user": "someone"}}],
        "clusters": [{"name": "lab", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
        "users": [{"name": "someone", "user": {}}],
    }
    file = directory / "kubeconfig"
    file.write_text(json.dumps(kubeconfig))
    return ("--kube", "auto", "--kubeconfig-file", str(file), "--node-name", "node-0")


@pytest.fixture
def site(node, api, tmp_path):
    with Site(node, tmp_path / "state", *arguments(api, tmp_path)) as running:
        yield running


@pytest.fixture
def guessing(node, api, tmp_path, monkeypatch):
    """Nothing but the API says what this node's pod CIDR is, and that is away at the start."""
    (tmp_path / "host").mkdir()
    monkeypatch.setenv("HEADCNI_HOST_ROOT", str(tmp_path / "host"))
    monkeypatch.delenv("NODE_POD_CIDR", raising=False)
    api.end()
    site = Site(node, tmp_path / "state")
    site.daemon = DaemonProcess(node, tmp_path / "state", *arguments(api, tmp_path))
    site.conf["ipam"] = {"type": "headcni-ipam"}
    with site:
        yield site


UP = ("False", "HeadCNIIsUp", "10.244.1.0/24")


def status(site):
    return site.daemon.status().get("kube", {})


def soon(holds, site):
    wait_until(holds, SOON, lambda: f"{status(site)}\n{site.daemon.log_tail()}")


def add_at_once(site, container):
    began = time.monotonic()
    site.add(container)
    assert time.monotonic() - began < AT_ONCE


def test_a_daemon_tells_its_node_and_shows_that_it_did(site, api):
    soon(lambda: api.told() == UP, site)
    soon(lambda: status(site).get("condition") == "False HeadCNIIsUp", site)
    shown = status(site)
    assert shown["up_to_date"] is True
    assert shown["trouble"] is None
    assert shown["endpoint"].startswith(f"http://127.0.0.1:{api.port}")
    add_at_once(site, "box")


def test_a_silent_or_dead_api_delays_no_pod_and_is_found_again(site, api, node):
    soon(lambda: api.told() == UP, site)
    api.process.send_signal(signal.SIGSTOP)
    add_at_once(site, "one")
    api.end()
    add_at_once(site, "two")
    soon(lambda: status(site).get("up_to_date") is False, site)
    assert status(site)["trouble"]["code"] == 170
    again = Api(node, api.port)
    try:
        soon(lambda: status(site).get("up_to_date") is True, site)
    finally:
        again.end()


def test_a_daemon_without_an_api_serves_pods_and_tells_everything_once_there_is_one(site, api, node):
    site.daemon.kill()
    api.end()
    site.restart()
    add_at_once(site, "one")
    soon(lambda: status(site).get("trouble") is not None, site)
    again = Api(node, api.port)
    try:
        soon(lambda: again.told() == UP, site)
    finally:
        again.end()


def test_a_daemon_that_ends_says_nothing_and_the_next_one_says_the_same_again(site, api):
    soon(lambda: api.told() == UP, site)
    assert site.daemon.stop() == 0
    assert api.told() == UP
    api.wipe()
    assert api.told() == (None, None, None)
    site.restart()
    soon(lambda: api.told() == UP, site)
    soon(lambda: status(site).get("up_to_date") is True, site)


def test_the_pod_cidr_that_the_api_gives_replaces_a_guess_and_no_pod_loses_its_address(guessing, api, node):
    site = guessing
    (guess,) = site.daemon.status()["pod_cidrs"]
    assert guess.startswith("10.244.")
    old = site.add("old").address
    again = Api(node, api.port)
    try:
        soon(lambda: site.daemon.status()["pod_cidrs"] == ["10.0.0.0/24"], site)
        assert site.log_lines("Found Pod CIDR in PodCIDRs: 10.0.0.0/24 (Node.spec.podCIDRs)")
        source = site.daemon.status()["pod_cidr_source"]
        assert (source["source"], source["guess"]) == ("api", False)
        change = {"before": [guess], "pods": 1}
        soon(lambda: site.daemon.status()["pod_cidr_source"]["change"] == change, site)
        assert site.add("new").address.startswith("10.0.0.")
        assert site.pod("new").ping(old)
        assert site.records()["old@eth0"].addresses[0].address == f"{old}/32"
        again.give("10.0.9.0/24")
        soon(lambda: site.daemon.status()["pod_cidrs"] == ["10.0.9.0/24"], site)
        newest = site.add("newest").address
        assert newest.startswith("10.0.9.")
        assert site.pod("old").ping(newest)
        soon(lambda: again.told()[2] == "10.0.9.0/24", site)
        site.wait_quiet()
        assert site.wrongs() == []
        for each in ("old", "new"):
            site.delete(each)
        soon(lambda: site.daemon.status()["pod_cidr_source"]["change"] is None, site)
    finally:
        again.end()
