"""Fence and guard, with packets: nothing of a pod's leaves in clear, and nothing for a pod of this node is led away."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from fixtures import tunnel
from fixtures.mesh.capture import Capture
from reconciler.node.fence import Fence
from reconciler.node.guard import Guard
from reconciler.node.host import Host
from reconciler.node.wish import HostWish

pytestmark = pytest.mark.kernel

OWN = tunnel.pod_cidrs(1)
SERVICES = ip_network("10.96.0.0/16")
WISH = HostWish(
    OWN, tunnel.CLUSTER, ipv6=True, fence=tunnel.CLUSTER, guard=(*OWN, SERVICES), gateways=tunnel.gateways(1)
)
REMOTE = tunnel.pod_addresses(2)


@pytest.fixture
def mesh(lab):
    tunnel.connect(lab)
    for node, other in ((1, 2), (2, 1)):
        tunnel.accept(lab.nodes[node - 1], *tunnel.pod_cidrs(other))


def lines(node, *what):
    return node.run("ip", "-4", *what).splitlines() + node.run("ip", "-6", *what).splitlines()


def clear_packets(lab, *senders):
    """What the LAN sees of pod addresses while each sender tries to reach the other node's pod. All in vain."""
    with Capture(lab, tunnel.RANGES) as capture:
        for sender in senders:
            assert not any(sender.ping(address, timeout=1) for address in REMOTE)
    return capture.packets


# --- packets


def test_without_a_fence_pod_packets_do_leave_in_clear(lab, node):
    seen = clear_packets(lab, tunnel.add_pod(node))
    assert {packet.target for packet in seen} >= set(REMOTE)


BROKEN = {
    "before tailscaled": (),
    "nothing accepted": ("ip route flush table 52", "ip -6 route flush table 52"),
    "tailscaled killed": (f"ip link del {tunnel.INTERFACE}",),
    "tailscaled ended": (f"ip link del {tunnel.INTERFACE}", "ip rule del pref 5270", "ip -6 rule del pref 5270"),
}


@pytest.mark.parametrize("state", BROKEN)
def test_in_no_state_of_the_mesh_does_a_pod_packet_leave_in_clear(lab, node, host, state, request):
    assert host.close_the_way_out(WISH) == ()
    pod = tunnel.add_pod(node)
    if BROKEN[state]:
        request.getfixturevalue("mesh")
        tunnel.add_pod(lab.nodes[1])
        assert all(pod.ping(address) for address in REMOTE)
    for command in BROKEN[state]:
        node.run(*command.split())
    assert clear_packets(lab, pod, node) == []


def test_the_sender_is_told_at_once(node, host):
    host.close_the_way_out(WISH)
    pod = tunnel.add_pod(node)
    for address in REMOTE:
        assert "nreachable" in pod.run("ping", "-n", "-c", "1", "-W", "1", address, check=False)


def test_the_mesh_carries_pod_packets_as_before(lab, node, host, mesh):
    host.close_the_way_out(WISH)
    here, there = tunnel.add_pod(node), tunnel.add_pod(lab.nodes[1])
    with Capture(lab, tunnel.RANGES) as capture:
        assert all(here.ping(address) for address in REMOTE)
        assert all(there.ping(address) for address in tunnel.pod_addresses(1))
    assert capture.packets == []


def test_static_routes_of_the_configuration_are_better_than_the_fence(lab, node, host):
    node.run("ip", "route", "add", "10.244.2.0/24", "via", lab.nodes[1].address, "proto", "72")
    assert host.close_the_way_out(WISH) == ()
    lab.nodes[1].run("ip", "route", "add", "10.244.1.0/24", "via", node.address)
    tunnel.add_pod(lab.nodes[1])
    assert tunnel.add_pod(node).ping(REMOTE[0])


def test_a_covering_route_of_another_node_steals_no_local_pod(lab, node, host, mesh):
    """Reproduced first: tailscaled's table is asked before the main table, where the pod is."""
    tunnel.add_pod(node)
    mine = tunnel.pod_addresses(1)
    assert all(node.ping(address) for address in mine)
    tunnel.accept(node, *tunnel.CLUSTER)
    assert not any(node.ping(address, timeout=1) for address in mine)
    host.close_the_way_out(WISH)
    assert all(node.ping(address) for address in mine)


def test_an_address_of_ours_without_a_pod_is_neither_the_meshs_nor_the_lans(lab, node, host, mesh):
    tunnel.accept(node, *tunnel.CLUSTER)
    host.close_the_way_out(WISH)
    for address in tunnel.pod_addresses(1, last=77):
        assert "No route to host" in node.run("sh", "-c", f"ip route get {address} 2>&1", check=False)


def test_services_are_led_by_the_main_table(node, host, mesh):
    tunnel.accept(node, SERVICES)
    assert f"dev {tunnel.INTERFACE}" in node.run("ip", "route", "get", "10.96.0.1")
    host.close_the_way_out(WISH)
    assert "dev eth0" in node.run("ip", "route", "get", "10.96.0.1")


# --- what is in the kernel


def test_both_are_told_by_their_protocol(node, host):
    host.close_the_way_out(WISH)
    assert {line.strip() for line in lines(node, "route", "show", "proto", "72")} == {
        "unreachable 10.244.0.0/16 metric 4000",
        "unreachable fd00:244::/32 dev lo metric 4000 pref medium",
    }
    assert [line for line in lines(node, "rule") if "proto 72" in line] == [
        "5000:\tfrom all to 10.244.1.0/24 lookup main proto 72",
        "5000:\tfrom all to 10.96.0.0/16 lookup main proto 72",
        "5000:\tfrom all to fd00:244:1::/64 lookup main proto 72",
    ]


def test_again_changes_nothing(node, host, tmp_path):
    host.prepare(WISH)
    before = node.snapshot()
    assert host.close_the_way_out() == ()
    assert host.prepare(WISH) == ()
    assert Host(tmp_path).prepare(WISH) == ()
    assert before.difference(node.snapshot()) == ()


HARM = {
    "ip route del unreachable 10.244.0.0/16 metric 4000": "route unreachable 10.244.0.0/16",
    "ip -6 route del fd00:244::/32 metric 4000": "route unreachable fd00:244::/32",
    "ip rule del pref 5000 to 10.244.1.0/24": "rule pref 5000 to 10.244.1.0/24",
    "ip -6 rule del pref 5000": "rule pref 5000 to fd00:244:1::/64",
    "ip link set lo down": "route unreachable fd00:244::/32",
}


@pytest.mark.parametrize("harm", HARM)
def test_what_somebody_removed_is_told_and_put_back(node, host, harm):
    host.close_the_way_out(WISH)
    node.run(*harm.split())
    (problem,) = host.fence_problems()
    assert problem.what.startswith(f"the {HARM[harm]}")
    assert problem.what.endswith("is missing")
    assert host.close_the_way_out() == ()
    assert host.fence_problems() == ()


def test_what_is_no_longer_wished_goes(node, host, tmp_path):
    before = node.snapshot()
    Host(tmp_path).close_the_way_out(WISH)
    wider = replace(WISH, fence=(ip_network("10.0.0.0/8"),), guard=(SERVICES,), pod_cidrs=())
    assert host.close_the_way_out(wider) == ()
    assert [line.split()[1] for line in lines(node, "route", "show", "proto", "72")] == ["10.0.0.0/8"]
    assert [line.split()[4] for line in lines(node, "rule") if "proto 72" in line] == ["10.96.0.0/16"]
    host.close_the_way_out(HostWish(()))
    assert before.difference(node.snapshot()) == ()


def test_a_pool_that_comes_later_is_guarded_too(node, host):
    host.prepare(WISH)
    pool = ip_network("10.99.0.0/24")
    host.ensure_pod_cidrs([pool])
    assert f"to {pool} lookup main proto 72" in node.run("ip", "rule")
    assert host.problems() == ()


def test_a_node_without_a_mesh_has_neither(node, host):
    before = node.snapshot()
    host.close_the_way_out(HostWish(OWN, tunnel.CLUSTER))
    host.ensure_pod_cidrs([ip_network("10.99.0.0/24")])
    after = node.snapshot()
    assert (after.routes, after.rules) == (before.routes, before.rules)


# --- beside others


FOREIGN = (
    "ip route add unreachable 10.244.0.0/16 metric 4001",
    "ip route add 10.244.0.0/16 via 192.168.77.12 metric 5000",
    "ip -6 route add fd00:244::/32 via fd77::12 metric 5000",
    "ip route add 10.0.0.0/8 via 192.168.77.12",
    "ip rule add pref 5000 to 10.245.0.0/16 lookup main",
    "ip rule add pref 5000 from 10.244.1.0/24 to 10.244.1.0/24 lookup main",
    "ip rule add pref 5001 to 10.244.1.0/24 lookup main proto 72",
    "ip rule add pref 5000 fwmark 5 lookup main proto 72",
    "ip -6 rule add pref 5000 to fd99::/64 lookup main",
)


def test_things_of_others_stay_as_they_are(node, host, tmp_path, mesh):
    for command in FOREIGN:
        node.run(*command.split())
    before = node.snapshot()
    host.prepare(WISH)
    assert host.fence_problems() == ()
    during = before.difference(node.snapshot())
    assert not [line for line in during if line.startswith(("- routes", "- rules"))]
    Host(tmp_path).restore()
    assert before.difference(node.snapshot()) == ()


@pytest.mark.parametrize("how", ["proto static", "proto 0"])
def test_what_somebody_holds_as_we_would_stays_theirs(node, host, how):
    node.run("ip", "rule", "add", "pref", "5000", "to", "10.244.1.0/24", "lookup", "main", *how.split())
    node.run("ip", "route", "add", "unreachable", "10.244.0.0/16", "metric", "4000", *how.split())
    before = node.snapshot()
    assert host.close_the_way_out(WISH) == ()
    host.restore()
    assert before.difference(node.snapshot()) == ()
    host.close_the_way_out(WISH)
    node.run("ip", "rule", "del", "pref", "5000", "to", "10.244.1.0/24", *how.split())
    node.run("ip", "route", "del", "unreachable", "10.244.0.0/16", *how.split())
    assert len(host.fence_problems()) == 2
    assert host.close_the_way_out() == ()


@pytest.mark.parametrize(
    "route",
    [
        "10.244.2.0/24 via 192.168.77.12",
        "10.244.2.0/24 dev eth0",
        "10.244.0.0/16 via 192.168.77.12",
        "10.244.0.0/16 via 192.168.77.12 metric 4000",
        "10.244.1.64/26 via 192.168.77.12",
        "fd00:244:2::/64 via fd77::12",
        "10.244.2.0/24 nexthop via 192.168.77.12 nexthop via 192.168.77.99",
    ],
)
def test_a_route_of_others_that_leads_out_is_told_and_left_alone(node, host, route):
    node.run("ip", "route", "add", *route.split())
    before = node.snapshot().routes
    (problem,) = host.close_the_way_out(WISH)
    assert problem.what.startswith(f"the route {route.split()[0]}")
    assert "past the mesh" in problem.what
    assert set(before) <= set(node.snapshot().routes)
    node.run("ip", "route", "del", *route.split())
    assert host.close_the_way_out() == ()


def test_bridges_of_this_nodes_pods_are_no_gap(node, host):
    """Our addresses under the plugins `bridge` and `ptp`."""
    node.run("ip", "link", "add", "cni0", "type", "bridge")
    node.run("ip", "link", "set", "cni0", "up")
    node.run("ip", "address", "add", "10.244.1.1/24", "dev", "cni0")
    node.run("ip", "route", "add", "10.244.1.9", "dev", "cni0")
    node.run("ip", "route", "add", "blackhole", "10.244.3.0/24")
    assert host.close_the_way_out(WISH) == ()


# --- killed in between


@pytest.mark.parametrize("made", [(), ("fence",), ("fence", "guard")])
def test_what_a_kill_left_half_done_is_completed_and_undone(node, tmp_path, made):
    before = node.snapshot()

    def half():
        if "fence" in made:
            Fence().write(WISH.fence[:1])
        if "guard" in made:
            Guard().write(WISH.guard[:1])

    half()
    assert Host(tmp_path).close_the_way_out(WISH) == ()
    Host(tmp_path).restore()
    assert before.difference(node.snapshot()) == ()
    half()
    Host(tmp_path).restore()
    assert before.difference(node.snapshot()) == ()


class Killed(BaseException):
    pass


def killed_by_nft(script):
    raise Killed


def stands(node):
    return "unreachable 10.244.0.0/16" in node.run("ip", "route"), "proto 72" in node.run("ip", "rule")


def test_they_come_first_and_go_last(node, tmp_path):
    dying = Host(tmp_path, nft=killed_by_nft)
    with pytest.raises(Killed):
        dying.prepare(WISH)
    assert stands(node) == (True, True)
    with pytest.raises(Killed):
        dying.restore()
    assert stands(node) == (True, True)
    Host(tmp_path).restore()
    assert stands(node) == (False, False)
