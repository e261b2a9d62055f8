"""The mesh's test ground is what it says: packets pass in the mesh, what leaves it is seen, and nothing stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from meshes import eventually

from fixtures.lab import NETNS_DIR
from fixtures.mesh import MeshLab, MeshNode

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshLab]:
    """Two joined nodes, each with an address of its pod range on `lo`; announced and approved."""
    with MeshLab(tmp_path_factory.mktemp("mesh"), nodes=2) as running:
        running.join()
        for each in running.nodes:
            for prefix in each.pod_cidrs:
                each.node.run("ip", "address", "add", source(prefix), "dev", "lo")
            each.tailscaled.announce(*each.pod_cidrs)
            running.headscale.approve(each.name, *each.pod_cidrs)
        one, two = running.nodes
        one.tailscaled.wait_accepts(*two.pod_cidrs)
        two.tailscaled.wait_accepts(*one.pod_cidrs)
        yield running


def source(prefix: str) -> str:
    return prefix.partition("/")[0] + "1" if ":" in prefix else prefix.replace(".0/24", ".1")


def reaches(here: MeshNode, there: MeshNode, family: int) -> bool:
    sender, target = source(here.pod_cidrs[family]), source(there.pod_cidrs[family])
    answer = here.node.run("ping", "-n", "-c", "3", "-i", "0.3", "-W", "1", "-I", sender, target, check=False)
    return " 0 received" not in answer


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_packets_pass_in_the_mesh_and_not_in_clear(mesh: MeshLab, family: int) -> None:
    one, two = mesh.nodes
    with mesh.capture() as lan:
        assert reaches(one, two, family)
        assert reaches(two, one, family)
    assert lan.frames > 0
    assert lan.packets == []


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_what_leaves_the_mesh_is_seen(mesh: MeshLab, family: int) -> None:
    one = mesh.nodes[0].node
    sender = source(mesh.nodes[0].pod_cidrs[family])
    nobody = ("10.244.99.1", "fd00:10:244:99::1")[family]
    with mesh.capture() as lan:
        one.run("ping", "-n", "-c", "1", "-W", "1", "-I", sender, nobody, check=False)
    assert {(each.source, each.target) for each in lan.packets} == {(sender, nobody)}


def test_without_direct_udp_packets_pass_by_the_relay(mesh: MeshLab) -> None:
    one, two = mesh.nodes
    with mesh.relay_only():
        assert any(reaches(one, two, 0) for _ in range(10))
        assert 'relay "lab"' in one.tailscaled.cli("status")


def test_one_cut_off_from_headscale_still_reaches_the_others(mesh: MeshLab) -> None:
    one, two = mesh.nodes
    with mesh.cut_off(one):
        assert not one.node.ping(mesh.control.address, timeout=1)
        assert any(reaches(one, two, 0) for _ in range(10))
    assert one.node.ping(mesh.control.address)


def test_taking_over_dns_stays_in_the_node(mesh: MeshLab) -> None:
    machine = Path("/etc/resolv.conf").read_text()
    tailscaled = mesh.nodes[0].tailscaled
    before = tailscaled.resolv_conf()
    tailscaled.edit(CorpDNS=True)
    eventually(lambda: tailscaled.resolv_conf() != before, "DNS is taken over", 10)
    tailscaled.edit(CorpDNS=False)
    eventually(lambda: tailscaled.resolv_conf() == before, "DNS is given back", 10)
    assert Path("/etc/resolv.conf").read_text() == machine


def test_nothing_is_left_when_something_fails_inside(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), MeshLab(tmp_path, nodes=1) as mesh:  # noqa: PT012
        processes = list(mesh.lab.processes)
        raise ZeroDivisionError
    assert len(processes) == 2
    assert all(each.poll() is not None for each in processes)
    assert list(NETNS_DIR.glob(f"{mesh.lab.prefix}*")) == []
