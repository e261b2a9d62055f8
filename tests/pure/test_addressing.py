"""From addresses to what the record says: prefix lengths, gateways, routes."""

import json
from ipaddress import ip_address, ip_network

import pytest

from cni.result import Dns, Ip, Result, Route
from reconciler.addressing import from_delegate, from_pools
from reconciler.netconf import NetConf, parse
from statemachine.attachment import Address, State

V4, V6 = "10.244.1.0/24", "fd00:244:1::/64"
POD4, POD6 = ip_address("10.244.1.7"), ip_address("fd00:244:1::7")
GW4, GW6 = "10.244.1.1", "fd00:244:1::1"


def conf(*subnets, routes=(), kind="headcni-ipam", **keys) -> NetConf:
    ipam = {"type": kind, "ranges": [[{"subnet": subnet}] for subnet in subnets], "routes": list(routes)}
    parsed = parse(json.dumps({"cniVersion": "1.1.0", "name": "net", "ipam": ipam, **keys}).encode())
    assert isinstance(parsed, NetConf), parsed
    return parsed


def routes(*given, goal=State.ADVERTISED, **keys):
    subnets = [V4 if address.version == 4 else V6 for address in given]
    return from_pools(conf(*subnets, **keys), given, goal)["routes"]


def test_a_pod_of_ours_has_its_address_alone():
    given = from_pools(conf(V4, V6), (POD4, POD6), State.ADVERTISED)
    assert given["addresses"] == (Address(f"{POD4}/32", GW4, V4), Address(f"{POD6}/128", GW6, V6))


def test_under_another_main_plugin_the_address_has_the_subnets_prefix_length():
    given = from_pools(conf(V4), (POD4,), State.ALLOCATED)
    assert given["addresses"] == (Address(f"{POD4}/24", GW4, V4),)


def test_no_routes_configured_means_a_default_route_for_each_family():
    assert routes(POD4, POD6) == (Route("0.0.0.0/0", GW4), Route("::/0", GW6))
    assert routes(POD4, service_cidr="10.96.0.0/16") == (Route("0.0.0.0/0", GW4),)


def test_under_another_main_plugin_routes_are_those_configured():
    asked = [{"dst": "10.0.0.0/8"}]
    assert routes(POD4, routes=asked, service_cidr="10.96.0.0/16", goal=State.ALLOCATED) == (Route("10.0.0.0/8"),)


def test_configured_routes_get_the_gateway_of_their_family_and_those_of_no_family_are_left_out():
    asked = [{"dst": "192.0.2.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.244.1.5"}, {"dst": "2001:db8::/32"}]
    assert routes(POD4, routes=asked) == (Route("192.0.2.0/24", GW4), Route("198.51.100.0/24", "10.244.1.5"))


@pytest.mark.parametrize("covering", ["10.96.0.0/16", "10.0.0.0/8", "0.0.0.0/0"])
def test_services_need_no_route_where_one_covers_them(covering):
    assert routes(POD4, routes=[{"dst": covering}], service_cidr="10.96.0.0/16") == (Route(covering, GW4),)


def test_services_get_a_route_of_each_family_the_pod_has():
    asked = {"routes": [{"dst": "192.0.2.0/24"}], "service_cidr": "10.96.0.0/16,fd01::/112"}
    first = Route("192.0.2.0/24", GW4)
    assert routes(POD4, **asked) == (first, Route("10.96.0.0/16", GW4))
    assert routes(POD4, POD6, **asked) == (first, Route("10.96.0.0/16", GW4), Route("fd01::/112", GW6))


def test_a_delegates_answer_is_taken_as_it_is():
    result = Result((Ip("10.9.0.7/24", "10.9.0.1"),), routes=(Route("192.0.2.0/24"),), dns=Dns(domain="x"))
    given = from_delegate(conf(kind="host-local"), result)
    assert given["addresses"] == (Address("10.9.0.7/32", "10.9.0.1", str(ip_network("10.9.0.0/24"))),)
    assert given["routes"] == (Route("192.0.2.0/24"),)
    assert given["dns"] == Dns(domain="x")


def test_a_delegate_that_names_no_gateway_gets_ours():
    given = from_delegate(conf(kind="static"), Result((Ip("10.9.0.7/24"), Ip("fd09::7/64"))))
    assert [address.gateway for address in given["addresses"]] == ["169.254.1.1", "fe80::1"]
    assert given["routes"] == (Route("0.0.0.0/0", "169.254.1.1"), Route("::/0", "fe80::1"))


def test_the_networks_dns_wins_over_a_delegates():
    given = from_delegate(
        conf(kind="static", dns={"domain": "ours"}), Result((Ip("10.9.0.7/24"),), dns=Dns(domain="x"))
    )
    assert given["dns"] == Dns(domain="ours")
