"""The daemon keeps its fence and its guard: whoever removes a part of them by hand finds it put back, and logged."""

from __future__ import annotations

import pytest

from fixtures.processes import DaemonProcess
from fixtures.site import wait_until

pytestmark = pytest.mark.kernel

OWN, CLUSTER = "10.244.1.0/24,fd00:10:244:1::/64", "10.244.0.0/16,fd00:10:244::/48"
PARTS = (  # how it is shown, what shows it, what removes it
    ("unreachable 10.244.0.0/16", "-4 route show", "-4 route del unreachable 10.244.0.0/16"),
    ("unreachable fd00:10:244::/48", "-6 route show", "-6 route del unreachable fd00:10:244::/48"),
    ("to 10.244.1.0/24 lookup main", "-4 rule show", "-4 rule del to 10.244.1.0/24 lookup main"),
    ("to fd00:10:244:1::/64 lookup main", "-6 rule show", "-6 rule del to fd00:10:244:1::/64 lookup main"),
)
SOON = 3.0  # seconds; a look that nothing told of comes each five


@pytest.fixture
def daemon(lab, tmp_path):
    nobody = ("--tailscale-socket", str(tmp_path / "nobody.sock"))
    arguments = ("--pod-cidr", OWN, "--cluster-cidr", CLUSTER, "--mesh", "tailscale", *nobody)
    with DaemonProcess(lab.nodes[0], tmp_path / "state", *arguments) as running:
        wait_until(lambda: "in_force" in running.status().get("mesh", {}), 10, running.log_tail)  # its start is over
        yield running


@pytest.mark.parametrize(("words", "show", "remove"), PARTS)
def test_what_somebody_removes_is_put_back_as_soon_as_the_kernel_tells(daemon, words, show, remove):
    def stands():
        return words in daemon.node.run("ip", *show.split())

    assert stands()
    daemon.node.run("ip", *remove.split())
    wait_until(stands, SOON, daemon.log_tail)
    wait_until(lambda: "somebody had removed it" in daemon.log.read_text(), 2)
