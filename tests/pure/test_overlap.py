"""Which overlaps are found, which of them break traffic, and that each names the thing that clashes and a cure."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from samples import in_state, requested

from reconciler.kube.codes import Trouble
from reconciler.node.clash import Ranges, ranges
from reconciler.node.dump import LinkAddress, Route, Rule
from reconciler.node.nearby import maker_of
from reconciler.node.overlap import Around, judge
from reconciler.wiring import codec as nl
from statemachine.attachment import Address, State

NAMES = {
    1: "lo", 2: "eth0", 3: "docker0", 4: "tailscale0", 5: "hcni5d41402abc4b", 6: "cni0", 7: "flannel.1", 8: "wg0",
    9: "kube-ipvs0", 10: "br-0123456789ab", 11: "virbr0", 12: "br-lan", 13: "cali0123456789a", 14: "cali0123456789b",
}  # fmt: skip
INDEX = {name: index for index, name in NAMES.items()}
KERNEL, STATIC, BIRD = 2, 4, 12
OWN, CLUSTER, SERVICES = "10.244.1.0/24", "10.244.0.0/16", "10.96.0.0/16"


def nets(*texts):
    return tuple(map(ip_network, texts))


RANGES = Ranges(nets(OWN), nets(CLUSTER), nets(SERVICES))
MESH = Ranges(nets(OWN), nets(CLUSTER), nets(SERVICES), mesh=True)


def has(text, link, ours=False):
    both = ip_interface(text)
    return LinkAddress(both.ip, both.network.prefixlen, INDEX[link], ours)


def route(text, link="", via="", protocol=STATIC, kind=nl.RTN_UNICAST):
    return Route(ip_network(text), protocol, ip_address(via) if via else None, INDEX.get(link, 0), kind)


def rule(text, preference=5000, plain=True, table=nl.RT_TABLE_MAIN):
    return Rule(preference, ip_network(text), table, 72, plain)


LAN = (has("192.168.7.10/24", "eth0"), has("127.0.0.1/8", "lo"), has("::1/128", "lo"))
OUT = (route("0.0.0.0/0", "eth0", "192.168.7.1"), route("192.168.7.0/24", "eth0", protocol=KERNEL))
TAILSCALE = (has("100.64.0.1/32", "tailscale0"), has("fd7a:115c:a1e0::1/128", "tailscale0"))


def found(given=RANGES, addresses=LAN, routes=OUT, **more):
    return judge(given, Around(addresses, routes, **more), NAMES.__getitem__)


def one(*args, **more):
    (only,) = found(*args, **more)
    assert only.refusal.msg
    assert only.refusal.details
    return only


def test_a_node_as_it_should_be_has_none():
    pods = (has("10.244.1.1/32", "hcni5d41402abc4b"), has("10.244.1.1/32", "lo", ours=True))
    tunnel = (*nets("10.244.2.0/24", "10.244.3.0/24", "100.64.0.2/32"),)
    guard = (rule(OWN), rule(SERVICES))
    assert found(MESH, (*LAN, *TAILSCALE, *pods), led_away=tunnel, rules=guard) == ()


# --- interfaces


@pytest.mark.parametrize(
    ("address", "gateway", "why"),
    [
        ("10.244.1.10/24", "10.244.1.254", "10.244.1.254, the next hop of this node's routes, has an address of pods"),
        ("10.244.1.10/24", "", "this node's own address 10.244.1.10 is one of pods"),
        ("10.0.0.5/8", "10.244.1.77", "10.244.1.77, the next hop of this node's routes, has an address of pods"),
        ("10.0.0.5/32", "10.244.1.77", "10.244.1.77, the next hop of this node's routes, has an address of pods"),
    ],
)
def test_what_hides_this_node_or_its_way_out_is_fatal(address, gateway, why):
    routes = (route("0.0.0.0/0", "eth0", gateway),) if gateway else ()
    clash = one(addresses=(has(address, "eth0"),), routes=routes)
    assert clash.fatal
    assert clash.what == f"this node's pod CIDR {OWN}"
    assert clash.where == f"{address} dev eth0"
    assert clash.refusal.code == Trouble.OVERLAP
    assert clash.refusal.msg.endswith(why)
    assert "network.podCIDR.nodeLocal" in clash.refusal.details


def test_a_node_in_the_range_of_other_nodes_pods_is_fatal_where_it_has_its_way_out_there():
    """Pods could reach nobody there: their packets to pods are not masqueraded."""
    lan = (has("10.244.9.10/24", "eth0"),)
    out = one(addresses=lan, routes=(route("0.0.0.0/0", "eth0", "10.244.9.1"),))
    assert out.fatal
    assert out.what == f"the cluster's pod CIDR {CLUSTER}"
    aside = one(addresses=lan, routes=())
    assert not aside.fatal
    assert aside.refusal.msg.endswith("hosts there may be hidden")


def test_a_wide_lan_around_the_pods_is_a_warning():
    clash = one(addresses=(has("10.1.2.3/8", "eth0"),), routes=(route("0.0.0.0/0", "eth0", "10.0.0.1"),))
    assert not clash.fatal
    assert clash.with_what == "the network 10.0.0.0/8 of eth0"


def test_services_on_the_lan_are_a_warning():
    given = Ranges(nets(OWN), nets(CLUSTER), nets("192.168.0.0/16"))
    clash = one(given)
    assert not clash.fatal
    assert "the range of Services 192.168.0.0/16" in clash.refusal.msg
    assert "--service-cluster-ip-range" in clash.refusal.details


@pytest.mark.parametrize(
    ("link", "cure"),
    [
        ("docker0", "/etc/docker/daemon.json"),
        ("br-0123456789ab", "docker network create --subnet"),
        ("virbr0", "virsh net-edit"),
        ("cni0", "ip link del cni0"),
        ("flannel.1", "ip link del flannel.1"),
    ],
)
def test_bridges_of_this_nodes_containers_are_warnings_with_the_cure_of_their_maker(link, cure):
    clash = one(addresses=(*LAN, has("10.244.1.1/24", link)))
    assert not clash.fatal
    assert f"the network 10.244.1.0/24 of {link} (" in clash.refusal.msg
    assert cure in clash.refusal.details


def test_a_bridge_of_hosts_is_not_taken_for_dockers():
    assert maker_of("br-lan") is None
    assert one(addresses=(has("10.244.1.10/24", "br-lan"),)).fatal


@pytest.mark.parametrize("bridge", ["cni0", "br-lan"])
def test_the_bridge_of_a_plugin_that_has_its_addresses_from_us_is_as_it_should_be(bridge):
    lent = requested(goal=State.ALLOCATED, addresses=(Address("10.244.1.7/24", "10.244.1.1", OWN),))
    given = ranges(nets(OWN), nets(CLUSTER), (), False, [lent])
    assert given.lent == nets(OWN)
    veth = route("10.244.1.7/32", "cni0", protocol=3)
    assert found(given, (*LAN, has("10.244.1.1/24", bridge)), (*OUT, veth)) == ()


def test_what_is_not_the_gateway_of_a_lent_pool_is_somebody_elses():
    lent = requested(goal=State.ALLOCATED, addresses=(Address("10.244.1.7/24", "10.244.1.1", OWN),))
    assert found(ranges(nets(OWN), nets(CLUSTER), (), False, [lent]), (*LAN, has("10.244.1.20/24", "br-lan")), OUT)


def test_a_pool_lent_on_the_lan_is_no_pod_cidr():
    """Our addresses under `macvlan`."""
    lent = requested(goal=State.ALLOCATED, addresses=(Address("192.168.7.77/24", "192.168.7.1", "192.168.7.0/24"),))
    assert found(ranges(nets(OWN), nets(CLUSTER), (), False, [lent])) == ()


def test_a_pool_that_pods_still_have_is_judged_like_the_configured_one():
    given = ranges(nets("10.9.0.0/24"), (), (), False, [in_state(State.ADVERTISED)])
    assert given.pods == nets("10.9.0.0/24", OWN, "fd00:244:1::/64")
    assert one(given, (has("fd00:244:1::9/64", "eth0"),), ()).what == "this node's pod CIDR fd00:244:1::/64"


def test_each_interface_is_told_once_by_what_suffers_most():
    """The whole range has the next hop; this node's own share only overlaps."""
    addresses = (has("10.244.5.5/16", "eth0"), has("10.244.5.6/16", "eth0"))
    clash = one(addresses=addresses, routes=(route("0.0.0.0/0", "eth0", "10.244.0.1"),))
    assert clash.fatal
    assert clash.what == f"the cluster's pod CIDR {CLUSTER}"


def test_addresses_of_services_that_kube_proxy_put_there_are_no_clash():
    assert found(addresses=(*LAN, has("10.96.0.1/32", "kube-ipvs0"))) == ()


def test_the_worst_comes_first():
    both = (has("172.17.0.1/16", "docker0"), has("10.244.1.10/24", "eth0"))
    given = Ranges(nets(OWN, "172.17.5.0/24"), nets(CLUSTER), ())
    assert [each.fatal for each in found(given, both, ())] == [True, False]


# --- each other


def test_pods_and_services():
    given = Ranges(nets(OWN), nets(CLUSTER), nets("10.244.1.0/28"))
    (own, whole) = found(given)
    assert own.fatal
    assert not whole.fatal
    assert own.refusal.msg.startswith(
        f"this node's pod CIDR {OWN} overlaps the range of Services 10.244.1.0/28: a pod "
    )


def test_with_a_fence_services_inside_the_cluster_are_cut_off():
    given = Ranges(nets(OWN), nets(CLUSTER), nets("10.244.200.0/24"), mesh=True)
    clash = one(given)
    assert clash.fatal
    assert "the fence around pods" in clash.refusal.msg


# --- routes


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (route("10.0.0.0/8", "wg0"), "the route 10.0.0.0/8 dev wg0 of protocol 4: hosts there may be hidden"),
        (route("10.244.1.64/26", "eth0", "192.168.7.9"), "via 192.168.7.9 dev eth0 of protocol 4: no pod gets"),
        (route(OWN, "wg0"), f"the route {OWN} dev wg0 of protocol 4: hosts there"),
        (
            route("10.244.1.128/26", protocol=BIRD, kind=6),
            "10.244.1.128/26 of protocol 12 (which leads nowhere): no pod gets",
        ),
    ],
)
def test_routes_are_warnings_that_name_them(given, says):
    clash = one(routes=(*OUT, given))
    assert not clash.fatal
    assert says in clash.refusal.msg
    assert f"ip route del {given.dst}" in clash.refusal.details


@pytest.mark.parametrize(
    "given",
    [
        route("10.244.2.0/24", "eth0", "192.168.7.12"),
        route(CLUSTER, "eth0", "192.168.7.1"),
        route(SERVICES, "eth0", "192.168.7.1"),
        route("10.96.0.1/32", "eth0"),
        route("0.0.0.0/0", "wg0"),
        route("fd00::/8", "wg0"),
    ],
)
def test_routes_on_purpose_and_unrelated_ones_are_not_told(given):
    assert found(routes=(*OUT, given)) == ()


def test_what_another_plugin_has_for_each_of_its_pods_is_told_once():
    calicos = [route(f"10.244.1.{last}/32", f"cali0123456789{'ab'[last % 2]}") for last in range(2, 60)]
    clash = one(routes=(*OUT, *calicos))
    assert "ip link del cali0123456789a" in clash.refusal.details


def test_the_route_of_an_interface_that_is_told_is_not_told_again():
    routes = (route("10.244.1.0/24", "docker0", protocol=KERNEL), route("10.244.1.0/24", "docker0", protocol=BIRD))
    assert len(found(addresses=(*LAN, has("10.244.1.1/24", "docker0")), routes=(*OUT, *routes))) == 1


# --- the mesh


@pytest.mark.parametrize(
    ("pods", "members", "fatal"),
    [
        ("100.96.0.0/24", (), False),
        ("100.64.0.0/24", (), True),
        ("100.65.0.0/24", nets("100.65.0.9/32"), True),
        ("fd7a:115c:a1e0:1::/64", (), False),
    ],
)
def test_pods_in_the_range_of_tailnets(pods, members, fatal):
    given = Ranges(nets(pods), (), nets(SERVICES), mesh=True)
    clash = one(given, (*LAN, *TAILSCALE), led_away=members)
    assert clash.fatal is fatal
    assert "the range of tailnets" in clash.refusal.msg


def test_without_a_mesh_that_range_is_free():
    assert found(Ranges(nets("100.96.0.0/24"))) == ()


def test_a_lan_in_the_range_of_tailnets_is_told():
    clash = one(MESH, (has("100.72.3.4/22", "eth0"), *TAILSCALE), ())
    assert not clash.fatal
    assert "--netfilter-mode=off" in clash.refusal.details


@pytest.mark.parametrize(
    ("announced", "fatal"),
    [("192.168.7.0/24", True), ("192.168.0.0/16", True), ("192.168.7.0/30", True), ("192.168.7.128/25", False)],
)
def test_a_lan_that_the_mesh_leads_away(announced, fatal):
    clash = one(MESH, (*LAN, *TAILSCALE), led_away=nets(announced))
    assert clash.fatal is fatal
    assert announced in clash.refusal.msg
    assert "add 192.168.7.0/24 to mesh.guard" in clash.refusal.details


@pytest.mark.parametrize(
    ("guarded", "is_kept"),
    [
        (rule("192.168.7.0/24"), True),
        (rule("192.168.7.0/25"), False),
        (rule("192.168.7.0/24", preference=5271), False),
        (rule("192.168.7.0/24", plain=False), False),
        (rule("192.168.7.0/24", table=52), False),
        (rule("0.0.0.0/0", preference=32766), False),
    ],
)
def test_a_rule_before_tailscaleds_keeps_it(guarded, is_kept):
    assert (found(MESH, (*LAN, *TAILSCALE), led_away=nets("192.168.0.0/16"), rules=(guarded,)) == ()) is is_kept


def test_an_exit_node_and_single_hosts_lead_no_network_away():
    assert found(MESH, (*LAN, *TAILSCALE), led_away=nets("0.0.0.0/0", "::/0", "192.168.7.9/32")) == ()


def test_dockers_network_that_the_mesh_leads_away_is_a_warning():
    bridge = has("172.17.0.1/16", "docker0")
    assert not one(MESH, (*LAN, bridge), led_away=nets("172.16.0.0/12")).fatal


def test_whose_network_leads_it_away_is_told_where_it_is_known():
    given = Ranges(nets(OWN), nets(CLUSTER), mesh=True, others={ip_network("192.168.7.0/24"): "n2"})
    assert "192.168.7.0/24 of node n2 overlaps" in one(given, led_away=nets("192.168.7.0/24")).refusal.msg
