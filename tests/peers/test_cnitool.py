"""libcni, through its own tool, against our conflist: every verb, each specification version, with the standard
plugins chained behind us."""

from __future__ import annotations

import shutil

import pytest
from box import NODE_IP, Box, eventually
from calls import CniTool, address_of, in_pod, netns, new_pods, reaches
from headcni import BANDWIDTH, PORTMAP, HeadCni, conflist, kernel_state

from fixtures.peers import find

pytestmark = pytest.mark.peers

VERSIONS = ("0.4.0", "1.0.0", "1.1.0")


@pytest.fixture
def tool(headcni: HeadCni, box: Box, request: pytest.FixtureRequest) -> CniTool:
    """Of the newest version, unless a test asks for another."""
    headcni.configure(conflist(getattr(request, "param", VERSIONS[-1]), PORTMAP, BANDWIDTH))
    new_pods(box, "one", "two")
    return CniTool(box)


@pytest.mark.parametrize("tool", VERSIONS, indirect=True)
class TestEachVersion:
    def test_pods_reach_each_other(self, tool: CniTool, box: Box, request: pytest.FixtureRequest) -> None:
        one, two = tool.add("one"), tool.add("two")
        assert one["cniVersion"] == request.node.callspec.params["tool"]
        assert reaches(box, "one", address_of(two))
        assert reaches(box, "two", address_of(one))

    def test_check_agrees_with_a_fresh_add(self, tool: CniTool) -> None:
        tool.add("one")
        checked = tool.call("check", "one")
        assert checked.returncode == 0, checked.stderr

    def test_check_names_the_address_that_is_gone(self, tool: CniTool, box: Box) -> None:
        address = address_of(tool.add("one"))
        in_pod(box, "one", "ip", "address", "flush", "dev", "eth0")
        checked = tool.call("check", "one")
        assert checked.returncode != 0
        assert address in checked.stderr

    def test_delete_leaves_nothing_and_may_be_repeated(self, tool: CniTool, headcni: HeadCni, box: Box) -> None:
        before = kernel_state(box)
        tool.add("one")
        assert kernel_state(box) != before
        for _ in range(2):
            deleted = tool.call("del", "one")
            assert deleted.returncode == 0, deleted.stderr
        headcni.await_nothing_left()
        assert kernel_state(box) == before

    def test_a_port_of_the_node_leads_to_the_pod(self, tool: CniTool, box: Box) -> None:
        mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
        tool.add("one", portMappings=[mapping])
        tool.add("two")
        busybox = find("busybox")
        box.start(
            "listener", "ip", "netns", "exec", "one", busybox, "nc", "-ll", "-p", "80", "-e", busybox, "echo", "hello"
        )
        sockets = ("cat", "/proc/net/tcp", "/proc/net/tcp6")
        eventually(lambda: " 0A " in in_pod(box, "one", *sockets), "the listener")
        asked = in_pod(box, "two", "sh", "-c", f"{busybox} nc -w 10 {NODE_IP} 8080 < /dev/null")
        assert asked == "hello\n"
        assert tool.call("check", "one", portMappings=[mapping]).returncode == 0
        assert tool.call("del", "one", portMappings=[mapping]).returncode == 0
        assert "8080" not in box.run("nft", "list", "ruleset").stdout

    def test_a_rate_limits_the_pod(self, tool: CniTool, headcni: HeadCni, box: Box) -> None:
        before = kernel_state(box)
        limit = {"ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 8_000_000, "egressBurst": 80_000}
        tool.add("one", bandwidth=limit)
        host_link = next(name for name in box.link_names() if name not in ("lo", "node0") and "bwp" not in name)
        assert "tbf" in box.run("tc", "qdisc", "show", "dev", host_link).stdout
        checked = tool.call("check", "one", bandwidth=limit)
        assert checked.returncode == 0, checked.stderr
        assert tool.call("del", "one", bandwidth=limit).returncode == 0
        headcni.await_nothing_left()
        assert kernel_state(box) == before


class TestDelete:
    def test_when_the_namespace_is_gone(self, tool: CniTool, headcni: HeadCni, box: Box) -> None:
        tool.add("one")
        box.run("ip", "netns", "delete", "one")
        assert tool.call("del", "one").returncode == 0
        headcni.await_nothing_left()

    def test_without_a_daemon_is_finished_by_the_next(self, tool: CniTool, headcni: HeadCni, box: Box) -> None:
        before = kernel_state(box)
        tool.add("one")
        headcni.kill()
        assert tool.call("del", "one").returncode == 0
        assert headcni.records()
        headcni.start()
        headcni.await_nothing_left()
        assert kernel_state(box) == before


class TestCollectGarbage:
    def test_removes_what_libcni_remembers(self, tool: CniTool, headcni: HeadCni, box: Box) -> None:
        before = kernel_state(box)
        tool.add("one")
        tool.add("two")
        collected = tool.call("gc")
        assert collected.returncode == 0, collected.stderr
        headcni.await_nothing_left()
        assert kernel_state(box) == before

    def test_removes_what_libcni_forgot(self, tool: CniTool, headcni: HeadCni, box: Box) -> None:
        tool.add("one")
        shutil.rmtree(box.inside("/var/lib/cni/results"))
        assert tool.call("gc").returncode == 0
        headcni.await_nothing_left()
        assert "eth0" not in in_pod(box, "one", "ip", "link")


class TestStatus:
    def test_is_good_with_a_daemon(self, tool: CniTool) -> None:
        status = tool.call("status")
        assert status.returncode == 0, status.stderr

    def test_says_so_without_one(self, tool: CniTool, headcni: HeadCni) -> None:
        headcni.kill()
        status = tool.call("status")
        assert status.returncode != 0
        assert "daemon" in status.stderr


def test_an_interface_name_that_is_taken_is_refused(tool: CniTool, headcni: HeadCni, box: Box) -> None:
    in_pod(box, "one", "ip", "link", "add", "eth0", "type", "bridge")
    refused = tool.call("add", "one")
    assert refused.returncode != 0
    assert "eth0" in refused.stderr
    tool.call("del", "one")
    headcni.await_nothing_left()
    assert "eth0" in in_pod(box, "one", "ip", "link"), f"what another made in {netns('one')} stays"
