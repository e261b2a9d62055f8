from ipaddress import ip_address, ip_network

from reconciler.node.dump import LinkAddress, Route
from reconciler.node.foreign import judge
from reconciler.node.routes import Plan, plan
from reconciler.settings import StaticRoute

LINKS = {1: "lo", 2: "eth0", 3: "docker0", 9: "hc0a1b2c3d"}
POOL = ip_network("10.244.1.0/24")


def name(index):
    return LINKS[index]


def wish(dst, via):
    return StaticRoute(ip_network(dst), ip_address(via))


def route(dst, via=None, link=2, protocol=72):
    return Route(ip_network(dst), protocol, ip_address(via) if via else None, link)


def foreign(*routes, addresses=()):
    found = [LinkAddress(ip_address(address), 24, link) for address, link in addresses]
    return judge(found, routes, (POOL,), name)


def test_a_missing_route_is_added():
    a = wish("10.244.2.0/24", "192.0.2.2")
    assert plan([a], [], name).add == (a,)


def test_a_route_that_is_there_needs_nothing():
    change = plan([wish("10.244.2.0/24", "192.0.2.2")], [route("10.244.2.0/24", "192.0.2.2")], name)
    assert change == Plan((), (), (), ())


def test_another_gateway_is_replaced():
    a = wish("10.244.2.0/24", "192.0.2.3")
    assert plan([a], [route("10.244.2.0/24", "192.0.2.2")], name).replace == (a,)


def test_ours_that_is_no_longer_wished_is_removed():
    change = plan([], [route("10.244.2.0/24", "192.0.2.2")], name)
    assert change.remove == (wish("10.244.2.0/24", "192.0.2.2"),)


def test_routes_to_pods_and_of_others_are_not_removed():
    present = [
        route("10.244.1.7/32", link=9),
        route("10.244.1.8/32", "10.244.1.1", link=9),
        route("10.9.0.0/16", "192.0.2.9", protocol=3),
    ]
    assert plan([], present, name).remove == ()


def test_a_foreign_route_to_the_same_destination_is_a_conflict():
    change = plan([wish("10.244.2.0/24", "192.0.2.2")], [route("10.244.2.0/24", "192.0.2.9", protocol=3)], name)
    assert (change.add, change.replace, change.remove) == ((), (), ())
    assert "another via 192.0.2.9 dev eth0, of protocol 3" in change.conflicts[0].what
    assert "10.244.2.0/24" in change.conflicts[0].cure


def test_an_address_of_a_foreign_interface_is_held():
    held = foreign(addresses=[("10.244.1.7", 3), ("10.244.1.8", 9)])
    assert held[ip_address("10.244.1.7")] == "docker0 has the address 10.244.1.7/24"
    assert ip_address("10.244.1.8") not in held


def test_a_foreign_host_route_holds_its_address():
    held = foreign(route("10.244.1.7/32", "192.0.2.1", protocol=4))
    assert held[ip_address("10.244.1.7")] == "a route leads 10.244.1.7/32 via 192.0.2.1 to eth0"


def test_a_foreign_network_inside_the_pool_holds_all_its_addresses():
    held = foreign(route("10.244.1.128/25", link=3, protocol=2))
    assert held.get(ip_address("10.244.1.200"))
    assert held.get(ip_address("10.244.1.100")) is None


def test_a_route_as_wide_as_the_pool_or_wider_holds_nothing():
    routes = [route("0.0.0.0/0", "192.0.2.1"), route("10.0.0.0/8", "192.0.2.1"), route("10.244.1.0/24", "192.0.2.1")]
    assert foreign(*routes).get(ip_address("10.244.1.7")) is None


def test_a_blackhole_inside_the_pool_leads_nowhere():
    assert foreign(route("10.244.1.7/32", link=0))[ip_address("10.244.1.7")].endswith("to nowhere")
