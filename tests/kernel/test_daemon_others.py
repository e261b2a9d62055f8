"""A daemon that guesses its pod CIDR, beside an API that knows another node with the same: it is told everywhere."""

import contextlib
import http.client
import json
import subprocess
import sys
from ipaddress import ip_network

import pytest

from fixtures.processes import REPOSITORY, DaemonProcess
from fixtures.site import Site, wait_until
from reconciler.node.shares import share

pytestmark = pytest.mark.kernel

GUESS = str(share(ip_network("10.244.0.0/16"), 24, "node-0"))
SOON = 10.0  # seconds: a guess is compared within two of the connection
NODES = "/api/v1/nodes"
EVENTS = "/api/v1/namespaces/default/events"
CLASH = f"this node's pod CIDR {GUESS} overlaps {GUESS} of node node-1"


class Api:
    """The stand-in as a process on the node, with two Nodes."""

    def __init__(self, node):
        self._node = node
        command = (sys.executable, "-m", "fixtures.kube", "--nodes", "2")
        self.process = node.popen(*command, cwd=REPOSITORY, stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline().rpartition(b":")[2])

    def call(self, method, path, body=None):
        with (
            self._node.entered(),
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection,
        ):
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/merge-patch+json"})
            return json.loads(connection.getresponse().read())

    def give(self, name, cidr):
        self.call("PATCH", f"{NODES}/{name}", {"spec": {"podCIDR": cidr, "podCIDRs": [cidr] if cidr else None}})


@pytest.fixture
def api(node):
    made = Api(node)
    yield made
    made.process.kill()
    made.process.wait()
    made.process.stdout.close()


@pytest.fixture
def site(node, api, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADCNI_HOST_ROOT", str(tmp_path))
    monkeypatch.delenv("NODE_POD_CIDR", raising=False)
    api.give("node-0", None)
    api.give("node-1", GUESS)
    file = tmp_path / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "lab", "user": "someone"}}],
                "clusters": [{"name": "lab", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
                "users": [{"name": "someone", "user": {}}],
            }
        )
    )
    site = Site(node, tmp_path / "state")
    flags = ("--kube", "auto", "--kubeconfig-file", str(file), "--node-name", "node-0")
    site.daemon = DaemonProcess(node, tmp_path / "state", *flags)
    with site:
        yield site


def test_a_guess_that_another_node_has_is_told_until_it_gives_way(site, api, node):
    assert site.daemon.status()["pod_cidrs"] == [GUESS]
    told = lambda: [each for each in site.daemon.status()["warnings"] if CLASH in each]  # noqa: E731
    wait_until(told, SOON, site.daemon.log_tail)
    assert "let kube-controller-manager allocate" in told()[0]
    assert len(site.log_lines(CLASH)) == 1
    searched = site.daemon.status()["kube"]["others"]
    assert (searched["needed"], searched["nodes"], searched["trouble"]) == (True, 2, None)
    wait_until(lambda: any(CLASH in each["message"] for each in api.call("GET", EVENTS)["items"]), SOON)
    for command in ("podcidr", "doctor"):
        asked = (sys.executable, "-m", "reconciler.operate.cli", "--state-dir", str(site.state_dir), command)
        shown = node.run(*asked, check=False)  # both have something to complain of
        assert CLASH in " ".join(shown.split()), shown
    api.give("node-0", "10.244.7.0/24")
    wait_until(lambda: site.daemon.status()["pod_cidrs"] == ["10.244.7.0/24"], SOON, site.daemon.log_tail)
    wait_until(lambda: not told() and not site.daemon.status()["kube"]["others"]["needed"], SOON)
