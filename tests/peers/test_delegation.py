"""Addresses from the one, links from the other: host-local under headcni, headcni-ipam under the standard plugins."""

from __future__ import annotations

from typing import Any

import pytest
from box import Box
from calls import CniTool, address_of, call, new_pods, reaches
from headcni import SUBNET, HeadCni, conflist, kernel_state

pytestmark = pytest.mark.peers

OURS = {"type": "headcni-ipam", "subnet": SUBNET}
MAIN_PLUGINS: dict[str, dict[str, Any]] = {
    "ptp": {"type": "ptp", "ipam": OURS | {"routes": [{"dst": "0.0.0.0/0"}]}},
    "bridge": {"type": "bridge", "bridge": "br-pods", "isGateway": True, "ipam": OURS},
    "macvlan": {"type": "macvlan", "master": "node0", "ipam": OURS},
}


def host_local(subnet: str = SUBNET) -> dict[str, Any]:
    return {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}


def single(main: dict[str, Any]) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "tailscale-cni"} | main


class TestHostLocalUnderHeadcni:
    @pytest.fixture
    def tool(self, headcni: HeadCni, box: Box) -> CniTool:
        headcni.configure(conflist("1.0.0", ipam=host_local()))
        new_pods(box, "one", "two")
        return CniTool(box)

    @staticmethod
    def reserved(box: Box) -> list[str]:
        folder = box.inside("/var/lib/cni/networks/tailscale-cni")
        return [path.name for path in folder.iterdir() if path.name[0].isdigit()]

    def test_pods_reach_each_other_at_its_addresses(self, tool: CniTool, box: Box) -> None:
        one, two = address_of(tool.add("one")), address_of(tool.add("two"))
        assert sorted(self.reserved(box)) == sorted([one, two])
        assert reaches(box, "one", two)
        assert tool.call("check", "one").returncode == 0

    def test_delete_gives_the_address_back(self, tool: CniTool, headcni: HeadCni, box: Box) -> None:
        before = kernel_state(box)
        tool.add("one")
        assert tool.call("del", "one").returncode == 0
        headcni.await_nothing_left()
        assert kernel_state(box) == before

    def test_delete_without_a_daemon_gives_it_back_later(self, tool: CniTool, headcni: HeadCni) -> None:
        tool.add("one")
        headcni.kill()
        assert tool.call("del", "one").returncode == 0
        headcni.start()
        headcni.await_nothing_left()

    def test_check_passes_its_complaint_on(self, tool: CniTool, box: Box) -> None:
        address = address_of(tool.add("one"))
        (box.inside("/var/lib/cni/networks/tailscale-cni") / address).unlink()
        checked = tool.call("check", "one")
        assert checked.returncode != 0
        assert "host-local" in checked.stderr


class TestErrors:
    def test_an_empty_range_keeps_code_and_words_of_host_local(self, headcni: HeadCni, box: Box) -> None:
        new_pods(box, "one", "two")
        config = single({"type": "headcni", "ipam": host_local("10.244.1.0/30")})
        assert call(box, "headcni", "ADD", config, "one")[0] == 0
        before = kernel_state(box)
        own = call(box, "host-local", "ADD", config, "two")[1]
        status, refused = call(box, "headcni", "ADD", config, "two")
        assert status != 0
        assert (refused["code"], refused["msg"]) == (own["code"], own["msg"])
        assert kernel_state(box) == before
        assert len(headcni.records()) == 1

    def test_a_range_it_does_not_understand_is_its_own_to_refuse(self, headcni: HeadCni, box: Box) -> None:
        new_pods(box, "one")
        config = single({"type": "headcni", "ipam": host_local("10.244.1.0/33")})
        own = call(box, "host-local", "ADD", config, "one")[1]
        refused = call(box, "headcni", "ADD", config, "one")[1]
        assert (refused["code"], refused["msg"]) == (own["code"], own["msg"])

    def test_what_it_never_served_is_not_remembered_for_ever(self, headcni: HeadCni, box: Box) -> None:
        new_pods(box, "one")
        config = single({"type": "headcni", "ipam": host_local("10.244.1.0/33")})
        call(box, "headcni", "ADD", config, "one")
        assert call(box, "headcni", "DEL", config, "one")[0] == 0
        headcni.await_nothing_left()

    def test_a_missing_plugin_is_ours_to_report(self, headcni: HeadCni, box: Box) -> None:
        new_pods(box, "one")
        refused = call(box, "headcni", "ADD", single({"type": "headcni", "ipam": {"type": "absent"}}), "one")[1]
        assert refused["code"] == 104
        assert "absent" in refused["msg"]

    def test_our_empty_pool_keeps_its_code_under_ptp(self, headcni: HeadCni, box: Box) -> None:
        new_pods(box, "one", "two")
        config = single({"type": "ptp", "ipam": OURS | {"subnet": "10.244.1.0/30"}})
        assert call(box, "ptp", "ADD", config, "one")[0] == 0
        assert call(box, "ptp", "ADD", config, "two")[1]["code"] == 100


@pytest.mark.parametrize("main", MAIN_PLUGINS)
class TestOurAddressesUnder:
    @pytest.fixture
    def tool(self, headcni: HeadCni, box: Box, main: str) -> CniTool:
        headcni.configure({"cniVersion": "1.0.0", "name": "tailscale-cni", "plugins": [MAIN_PLUGINS[main]]})
        new_pods(box, "one", "two")
        return CniTool(box)

    def test_pods_reach_each_other(self, tool: CniTool, headcni: HeadCni, box: Box) -> None:
        one, two = address_of(tool.add("one")), address_of(tool.add("two"))
        assert one != two
        assert len(headcni.records()) == 2
        assert reaches(box, "one", two)
        checked = tool.call("check", "one")
        assert checked.returncode == 0, checked.stderr

    def test_delete_gives_the_address_back(self, tool: CniTool, headcni: HeadCni) -> None:
        tool.add("one")
        for _ in range(2):
            assert tool.call("del", "one").returncode == 0
        headcni.await_nothing_left()

    def test_the_address_outlives_a_killed_daemon(self, tool: CniTool, headcni: HeadCni) -> None:
        one = address_of(tool.add("one"))
        headcni.kill()
        headcni.start()
        assert address_of(tool.add("two")) != one
        assert tool.call("check", "one").returncode == 0
