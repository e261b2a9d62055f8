"""What a record means for the kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from cni.result import Route as AskedRoute
from reconciler.wiring.plan import LinkPlan, Neighbour, Route, host_name, instance_group, macs, plan_link
from statemachine.attachment import Address, Attachment, Link, State

GROUP = instance_group("/var/lib/headcni")
POD4, GW4 = ip_address("10.244.1.7"), ip_address("10.244.1.1")
POD6, GW6 = ip_address("fd00:244:1::7"), ip_address("fd00:244:1::1")
IN4 = Address("10.244.1.7/32", "10.244.1.1", "10.244.1.0/24")
IN6 = Address("fd00:244:1::7/128", "fd00:244:1::1", "fd00:244:1::/64")
DEFAULT4, DEFAULT6 = AskedRoute("0.0.0.0/0", "10.244.1.1"), AskedRoute("::/0", "fd00:244:1::1")


def record(*addresses: Address, routes=(), **changes) -> Attachment:
    empty = Attachment("c1", "eth0", State.ADVERTISED, "net", "1.1.0", "boot", 0.0, 0.0)
    return replace(empty, addresses=addresses, routes=tuple(routes), **changes)


def planned(*addresses: Address, **changes) -> LinkPlan:
    return plan_link(record(*addresses, **changes), GROUP, 1280)


def test_the_pod_holds_its_address_alone_and_reaches_all_through_the_gateway():
    end = planned(IN4, routes=[DEFAULT4]).pod_end
    assert end.addresses == (POD4,)
    assert end.routes == (Route(ip_network("10.244.1.1/32")), Route(ip_network("0.0.0.0/0"), GW4))


def test_the_node_holds_the_gateway_and_a_route_to_the_pod():
    end = planned(IN4, routes=[DEFAULT4]).host_end
    assert end.addresses == (GW4,)
    assert end.routes == (Route(ip_network("10.244.1.7/32")),)


def test_each_end_knows_the_other():
    plan = planned(IN4)
    assert plan.pod_end.neighbours == (Neighbour(GW4, plan.host_mac),)
    assert plan.host_end.neighbours == (Neighbour(POD4, plan.pod_mac),)


def test_only_the_node_s_end_is_in_our_link_group():
    plan = planned(IN4)
    assert (plan.host_end.group, plan.pod_end.group) == (GROUP, 0)


def test_dual_stack_has_both_of_everything():
    plan = planned(IN4, IN6, routes=[DEFAULT4, DEFAULT6])
    assert plan.host_end.addresses == (GW4, GW6)
    assert plan.pod_end.routes == (
        Route(ip_network("10.244.1.1/32")),
        Route(ip_network("fd00:244:1::1/128"), priority=1024),
        Route(ip_network("0.0.0.0/0"), GW4),
        Route(ip_network("::/0"), GW6, priority=1024),
    )


def test_two_addresses_of_one_subnet_share_a_gateway():
    second = Address("10.244.1.8/32", "10.244.1.1", "10.244.1.0/24")
    plan = planned(IN4, second)
    assert plan.host_end.addresses == (GW4,)
    assert len(plan.host_end.routes) == 2
    assert len(plan.pod_end.neighbours) == 1


def test_a_route_without_gateway_goes_through_the_first_of_its_family():
    other = Address("10.9.0.2/32", "10.9.0.1", "10.9.0.0/24")
    plan = planned(IN4, other, routes=[AskedRoute("10.96.0.0/12")])
    assert plan.routes == (Route(ip_network("10.96.0.0/12"), GW4),)


def test_a_route_keeps_what_was_asked_of_it():
    plan = planned(IN4, routes=[AskedRoute("10.96.0.0/12", "10.244.1.1", mtu=1200, advmss=1160, priority=7)])
    assert plan.routes == (Route(ip_network("10.96.0.0/12"), GW4, 1200, 1160, 7),)


def test_a_route_of_a_family_the_pod_lacks_is_left_out():
    assert planned(IN4, routes=[DEFAULT4, AskedRoute("::/0")]).routes == (Route(ip_network("0.0.0.0/0"), GW4),)


def test_mtu_is_the_recorded_one_else_the_configured_else_the_default():
    link = Link("hc", "eth0", "", "", mtu=1400)
    assert planned(IN4).mtu == 1280
    assert planned(IN4, config={"mtu": 1300}).mtu == 1300
    assert planned(IN4, config={"mtu": 1300}, link=link).mtu == 1400


@given(st.text(min_size=1, max_size=80))
def test_names_and_macs_are_valid_and_always_the_same(key):
    name, addresses = host_name(key), macs(key)
    assert (name, addresses) == (host_name(key), macs(key))
    assert len(name) == 15
    assert name.isalnum()
    assert name.startswith("hc")
    for mac in addresses:
        first = int(mac[:2], 16)
        assert first & 0b11 == 0b10, "locally administered, and not a multicast address"
        assert len(bytes.fromhex(mac.replace(":", ""))) == 6
    assert addresses[0] != addresses[1]


def test_names_do_not_collide():
    keys = [f"{number:064x}@eth{interface}" for number in range(10_000) for interface in range(2)]
    assert len({host_name(key) for key in keys}) == len(keys)
    assert len({mac for key in keys for mac in macs(key)}) == 2 * len(keys)


@given(st.text(max_size=40), st.text(max_size=40))
def test_link_groups_are_ours_even_and_one_per_state_directory(one, other):
    group = instance_group(one)
    assert group >> 24 == 0x48
    assert group % 2 == 0
    assert (group == instance_group(other)) == (one == other)
