"""The node's own part, in the network namespace of a lab node: what it makes, keeps, and gives back."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import orjson
import pytest

from fixtures.lab import Lab
from reconciler.node.host import Host
from reconciler.node.wish import HostWish
from reconciler.settings import StaticRoute

pytestmark = pytest.mark.kernel

POD4, POD6 = ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")
CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/32"))
ROUTE4 = StaticRoute(ip_network("10.244.2.0/24"), ip_address("192.168.77.12"))
ROUTE6 = StaticRoute(ip_network("fd00:244:2::/64"), ip_address("fd77::12"))
WISH = HostWish((POD4, POD6), CLUSTER, masquerade=True, ipv6=True, static_routes=(ROUTE4, ROUTE6))
FORWARDING_OFF = ("net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0", "net.ipv4.conf.all.accept_redirects=1")


@pytest.fixture
def lab():
    with Lab(2) as running:
        for node in running.nodes:
            node.run("sysctl", "-q", "-w", *FORWARDING_OFF)
        yield running


@pytest.fixture
def node(lab):
    """The test itself is inside the first node."""
    with lab.nodes[0].entered():
        yield lab.nodes[0]


@pytest.fixture
def host(node, tmp_path):
    return Host(tmp_path)


def sysctl(node, name):
    return node.run("sysctl", "-n", name).strip()


def wish(**changes):
    return HostWish(**{"pod_cidrs": (POD4,), "cluster_cidrs": CLUSTER, **changes})


# --- made so, and given back


def test_prepare_makes_all_of_it(node, host):
    changed = host.prepare(WISH)
    assert "net.ipv4.ip_forward: 0 -> 1" in changed
    assert sysctl(node, "net.ipv6.conf.all.forwarding") == "1"
    assert "via 192.168.77.12 dev eth0 proto 72" in node.run("ip", "route", "show", "10.244.2.0/24")
    assert "via fd77::12 dev eth0 proto 72" in node.run("ip", "-6", "route", "show", "fd00:244:2::/64")
    assert "masquerade" in node.run("nft", "list", "table", "inet", "headcni")
    assert host.problems() == ()


def test_prepare_again_changes_nothing(node, host, tmp_path):
    host.prepare(WISH)
    before = node.snapshot()
    assert host.prepare(WISH) == ()
    assert Host(tmp_path).prepare(WISH) == ()
    assert before.difference(node.snapshot()) == ()


def test_restore_gives_the_node_back_as_it_was(node, host, tmp_path):
    node.run("nft", "-f", "-", input="table ip foreign { chain c { type filter hook input priority 0; }; }")
    node.run("sysctl", "-q", "-w", "net.ipv4.conf.eth0.forwarding=1", "net.ipv6.conf.eth0.forwarding=1")
    node.run("ip", "route", "add", "10.9.0.0/16", "via", "192.168.77.12", "proto", "static")
    before = node.snapshot()
    host.prepare(WISH)
    assert before.difference(node.snapshot())
    assert Host(tmp_path).restore()  # another process, as an uninstall is
    assert before.difference(node.snapshot()) == ()
    assert list(tmp_path.iterdir()) == []
    assert Host(tmp_path).restore() == ()


def test_restore_without_prepare_touches_nothing(node, host):
    before = node.snapshot()
    assert host.restore() == ()
    assert before.difference(node.snapshot()) == ()


def test_a_second_daemon_with_its_own_table_gets_on_with_the_first(node, host, tmp_path):
    host.prepare(wish())
    (tmp_path / "second").mkdir()
    second = Host(tmp_path / "second", table="headcni_second")
    second.prepare(wish())
    assert host.problems() == second.problems() == ()
    second.restore()
    assert host.problems() == ()


# --- sysctls


def test_the_kernel_does_what_the_record_says_it_does(node, host, tmp_path):
    """The values recorded as ours are those the kernel has after the change, also where it copied them by itself."""
    host.prepare(WISH)
    recorded = orjson.loads((tmp_path / "host.json").read_bytes())["sysctls"]
    now = {key: sysctl(node, key.replace("/", ".")) for key in recorded}
    assert now == {key: entry["ours"] for key, entry in recorded.items()}


def test_router_advertisements_are_still_accepted(node, host):
    assert sysctl(node, "net.ipv6.conf.eth0.accept_ra") == "1"
    host.prepare(WISH)
    assert sysctl(node, "net.ipv6.conf.eth0.accept_ra") == "2"


def test_forwarding_that_somebody_switched_off_is_a_problem_and_is_switched_on(node, host):
    host.prepare(WISH)
    node.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    (problem,) = host.problems()
    assert "net.ipv4.ip_forward is not 1" in problem.what
    host.prepare(WISH)
    assert host.problems() == ()


# --- nftables


def test_a_foreign_table_of_our_name_stays(node, host):
    node.run("nft", "add", "table", "inet", "headcni")
    before = node.snapshot().nft
    host.prepare(wish())
    assert "not ours" in host.problems()[0].what
    host.restore()
    assert node.snapshot().nft == before


@pytest.mark.parametrize("harm", ["flush ruleset", "flush chain inet headcni leaving_cluster"])
def test_rules_that_somebody_removed_are_a_problem_and_are_written_again(node, host, harm):
    host.prepare(wish())
    node.run("nft", harm)
    assert "not as we wrote them" in host.problems()[0].what
    assert host.repair()
    assert host.problems() == ()


def test_policy_in_the_same_table_is_not_flushed(node, host):
    host.prepare(wish())
    node.run("nft", "-f", "-", input="add chain inet headcni pod1\nadd rule inet headcni pod1 drop\n")
    host.prepare(wish(masquerade=False))
    assert "drop" in node.run("nft", "list", "chain", "inet", "headcni", "pod1")
    assert "masquerade" not in node.run("nft", "list", "chain", "inet", "headcni", "leaving_cluster")


def test_a_pool_that_comes_later_is_masqueraded_too(node, host):
    host.prepare(wish())
    assert host.ensure_pod_cidrs([ip_network("10.99.0.0/24")])
    assert host.ensure_pod_cidrs([ip_network("10.99.0.0/24"), POD4]) == ()
    assert "10.99.0.0/24" in node.run("nft", "list", "table", "inet", "headcni")
    assert host.problems() == ()


def test_a_pool_that_nobody_was_served_from_goes_when_it_is_not_wished_any_more(node, host):
    """Such as a guess, before the API was asked: it is another node's, and must be reached there."""
    guess, served = ip_network("10.99.0.0/24"), ip_network("10.98.0.0/24")
    host.prepare(wish(pod_cidrs=(guess, served)))
    host.ensure_pod_cidrs([served])
    host.prepare(wish(pod_cidrs=(POD4,)))
    table = node.run("nft", "list", "table", "inet", "headcni")
    assert [str(each) in table for each in (guess, served, POD4)] == [False, True, True]
    assert host.problems() == ()


# --- static routes


def test_a_route_that_somebody_removed_is_put_back(node, host):
    host.prepare(WISH)
    node.run("ip", "route", "del", "10.244.2.0/24")
    assert "10.244.2.0/24 via 192.168.77.12 is missing" in host.problems()[0].what
    assert host.keep_static_routes() == ()
    assert "proto 72" in node.run("ip", "route", "show", "10.244.2.0/24")


def test_a_new_gateway_replaces_the_old_one(node, host):
    host.prepare(WISH)
    moved4 = StaticRoute(ROUTE4.dst, ip_address("192.168.77.13"))
    moved6 = StaticRoute(ROUTE6.dst, ip_address("fd77::13"))
    host.prepare(wish(ipv6=True, static_routes=(moved4, moved6)))
    assert node.run("ip", "route", "show", "10.244.2.0/24").split()[:3] == ["10.244.2.0/24", "via", "192.168.77.13"]
    assert node.run("ip", "-6", "route", "show", "fd00:244:2::/64").count("via") == 1
    assert host.problems() == ()


def test_a_route_no_longer_wished_is_removed_and_those_of_pods_stay(node, host):
    host.prepare(WISH)
    node.run("ip", "link", "add", "hc00", "type", "veth", "peer", "name", "hc01")
    node.run("ip", "link", "set", "hc00", "up")
    node.run("ip", "route", "add", "10.244.1.7/32", "dev", "hc00", "proto", "72")
    host.prepare(wish())
    routes = node.run("ip", "route", "show", "proto", "72")
    assert "10.244.1.7" in routes
    assert "10.244.2.0/24" not in routes


def test_a_foreign_route_to_the_same_destination_stays_and_is_reported(node, host):
    node.run("ip", "route", "add", "10.244.2.0/24", "via", "192.168.77.99", "metric", "50")
    before = node.snapshot().routes
    host.prepare(wish(static_routes=(ROUTE4,)))
    assert "there is another via 192.168.77.99 dev eth0" in host.problems()[0].what
    assert node.snapshot().routes == before
    node.run("ip", "route", "del", "10.244.2.0/24", "metric", "50")
    assert host.keep_static_routes() == ()


@pytest.mark.parametrize("via", ["10.55.0.1", "fd55::1"])
def test_an_unreachable_gateway_is_a_problem_until_it_is_reachable(node, host, via):
    dst = ROUTE4.dst if "." in via else ROUTE6.dst
    host.prepare(wish(ipv6=True, static_routes=(StaticRoute(dst, ip_address(via)),)))
    (problem,) = host.problems()
    assert f"{via} is not reachable" in problem.what
    node.run("ip", "addr", "add", f"{via[:-1]}2/{24 if '.' in via else 64}", "dev", "eth0")
    assert host.keep_static_routes() == ()


# --- foreign addresses


def test_addresses_and_routes_of_others_are_held_and_ours_are_not(node, host):
    host.prepare(WISH)
    node.run("ip", "link", "add", "br7", "type", "bridge")
    node.run("ip", "addr", "add", "10.244.1.7/24", "dev", "br7")
    node.run("ip", "addr", "add", "fd00:244:1::7/64", "dev", "br7", "nodad")
    node.run("ip", "route", "add", "10.244.1.8/32", "via", "192.168.77.12")
    node.run("ip", "route", "add", "10.244.1.64/26", "via", "192.168.77.12")
    node.run("ip", "link", "add", "hc00", "type", "veth", "peer", "name", "hc01")
    node.run("ip", "link", "set", "hc00", "up")
    node.run("ip", "addr", "add", "10.244.1.1/32", "dev", "hc00")
    node.run("ip", "route", "add", "10.244.1.9/32", "dev", "hc00", "proto", "72")
    held = host.foreign_addresses()
    last = range(1, 10)
    assert [n for n in last if ip_address(f"10.244.1.{n}") in held] == [7, 8]
    assert held[ip_address("10.244.1.7")] == "br7 has the address 10.244.1.7/24"
    assert held[ip_address("fd00:244:1::7")] == "br7 has the address fd00:244:1::7/64"
    assert ip_address("10.244.1.100") in held
    assert ip_address(node.address) in held


def test_the_same_object_is_given_while_nothing_changes(node, host):
    host.prepare(wish())
    before = host.foreign_addresses(max_age=0)
    assert host.foreign_addresses(max_age=0) is before
    node.run("ip", "addr", "add", "10.244.1.7/32", "dev", "eth0")
    assert host.foreign_addresses(max_age=60) is before
    assert ip_address("10.244.1.7") in host.foreign_addresses(max_age=0)


# --- packets


def pod_with_address(node, address, gateway="169.254.1.1"):
    """A pod as the wiring makes it, in its simplest form."""
    pod = node.new_pod_netns()
    name = f"hc{node.number}{len(node.pods)}"
    node.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pod.path)
    node.run("ip", "addr", "add", f"{gateway}/32", "dev", name)
    node.run("ip", "link", "set", name, "up")
    pod.run("ip", "addr", "add", f"{address}/32", "dev", "eth0")
    pod.run("ip", "link", "set", "eth0", "up")
    pod.run("ip", "route", "add", gateway, "dev", "eth0")
    pod.run("ip", "route", "add", "default", "via", gateway)
    node.run("ip", "route", "add", f"{address}/32", "dev", name, "proto", "72")
    return pod


def test_pods_of_two_nodes_see_each_other_as_they_are_and_others_see_the_node(lab, tmp_path):
    """With strict reverse path filters on both nodes."""
    hosts, pods = [], []
    for number, (node, other) in enumerate(zip(lab.nodes, reversed(lab.nodes), strict=True), 1):
        node.run("sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1")
        state = tmp_path / str(number)
        state.mkdir()
        with node.entered():
            hosts.append(Host(state))
            there = StaticRoute(ip_network(f"10.244.{3 - number}.0/24"), ip_address(other.address))
            hosts[-1].prepare(HostWish((ip_network(f"10.244.{number}.0/24"),), CLUSTER, static_routes=(there,)))
        pods.append(pod_with_address(node, f"10.244.{number}.5"))
    count_sources = "table ip seen { chain c { type filter hook input priority 0; ip saddr 10.244.1.5 counter; }; }"
    for netns in (pods[1], lab.nodes[1]):
        netns.run("nft", "-f", "-", input=count_sources)
    assert pods[0].ping("10.244.2.5")
    assert "packets 1" in pods[1].run("nft", "list", "table", "ip", "seen")
    assert pods[0].ping(lab.nodes[1].address), "the node answers, to an address it can reach"
    assert "packets 0" in lab.nodes[1].run("nft", "list", "table", "ip", "seen")
