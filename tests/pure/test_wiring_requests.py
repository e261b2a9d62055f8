"""pyroute2 as the witness: it writes the requests we write, byte for byte, and we read what it reads."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from reconciler.wiring import replies, requests
from reconciler.wiring.codec import FAMILY, HEADER
from reconciler.wiring.inspect import Held, differences
from reconciler.wiring.plan import End, Neighbour, Route
from reconciler.wiring.requests import Failure

MAC, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
GW4, GW6 = ip_address("10.244.1.1"), ip_address("fd00::1")
END = End(
    name="eth0",
    mac=PEER_MAC,
    mtu=1280,
    group=0,
    addresses=(ip_address("10.244.1.7"), ip_address("fd00::7")),
    routes=(Route(ip_network("0.0.0.0/0"), GW4), Route(ip_network("::/0"), GW6, priority=1024)),
    neighbours=(Neighbour(GW4, MAC),),
)
HOST = End("hcabcdefghijklm", MAC, 1280, 0x48000002, (GW4,), (), ())


def witnessed(message, fields, attributes) -> bytes:
    message = message()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = [(name, value) for name, value in attributes if value]
    message.encode()
    return bytes(message.data)[HEADER.size :]


def test_the_pair():
    peer = {
        "attrs": [
            ("IFLA_IFNAME", "eth0"),
            ("IFLA_ADDRESS", PEER_MAC),
            ("IFLA_MTU", 1280),
            ("IFLA_GROUP", 0),
            ("IFLA_NET_NS_FD", 5),
        ]
    }
    data = {"attrs": [("VETH_INFO_PEER", peer)]}
    attributes = [
        ("IFLA_IFNAME", HOST.name),
        ("IFLA_ADDRESS", MAC),
        ("IFLA_MTU", 1280),
        ("IFLA_GROUP", HOST.group),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}),
    ]
    theirs = witnessed(ifinfmsg, {}, attributes)
    assert requests.make_pair(HOST, END, 5).body == theirs


def test_bringing_up():
    theirs = witnessed(ifinfmsg, {"index": 7, "flags": 1, "change": 1}, [])
    assert requests.bring_up(END, 7, restore=False).body == theirs


def test_link_group():
    theirs = witnessed(ifinfmsg, {"index": 7}, [("IFLA_GROUP", 0x48000003)])
    assert requests.set_group(7, 0x48000003).body == theirs


@pytest.mark.parametrize(("text", "family", "bits"), [("10.244.1.7", AF_INET, 32), ("fd00::7", AF_INET6, 128)])
def test_addresses(text, family, bits):
    fields = {"family": family, "prefixlen": bits, "index": 7}
    flags = 0x202 if family == AF_INET6 else 0
    theirs = witnessed(ifaddrmsg, fields, [("IFA_LOCAL", text), ("IFA_ADDRESS", text), ("IFA_FLAGS", flags)])
    assert requests.add_address(ip_address(text), "eth0", 7).body == theirs


ROUTES = [
    Route(ip_network("10.244.1.1/32")),
    Route(ip_network("0.0.0.0/0"), GW4),
    Route(ip_network("10.96.0.0/12"), GW4, mtu=1200, advmss=1160, priority=7),
    Route(ip_network("10.96.0.0/12"), GW4, advmss=1160),
    Route(ip_network("fd00::1/128"), priority=1024),
    Route(ip_network("::/0"), GW6, priority=1024),
]


def witnessed_route(route: Route) -> bytes:
    version = route.dst.version
    fields = {
        "family": FAMILY[version],
        "dst_len": route.dst.prefixlen,
        "table": 254,
        "proto": 72,
        "scope": 253 if version == 4 and route.gw is None else 0,
        "type": 1,
    }
    metrics = [("RTAX_MTU", route.mtu), ("RTAX_ADVMSS", route.advmss)]
    attributes = [
        ("RTA_DST", str(route.dst.network_address) if route.dst.prefixlen else ""),
        ("RTA_GATEWAY", str(route.gw or "")),
        ("RTA_OIF", 7),
        ("RTA_PRIORITY", route.priority),
        ("RTA_METRICS", {"attrs": [each for each in metrics if each[1]]} if route.mtu or route.advmss else None),
    ]
    return witnessed(rtmsg, fields, attributes)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_routes(route):
    assert requests.add_route(route, "eth0", 7).body == witnessed_route(route)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_route_is_read_as_it_was_written(route):
    assert list(replies.routes([witnessed_route(route)])) == [(route, 7)]


@pytest.mark.parametrize("gateway", [GW4, GW6], ids=str)
def test_neighbours(gateway):
    fields = {"family": FAMILY[gateway.version], "ifindex": 7, "state": 128}
    theirs = witnessed(ndmsg, fields, [("NDA_DST", str(gateway)), ("NDA_LLADDR", MAC)])
    assert requests.add_neighbour(Neighbour(gateway, MAC), "eth0", 7).body == theirs
    assert list(replies.neighbours([theirs], 7)) == [(Neighbour(gateway, MAC), True)]


def test_a_link_is_read():
    attributes = [
        ("IFLA_IFNAME", "eth0"),
        ("IFLA_ADDRESS", MAC),
        ("IFLA_MTU", 1280),
        ("IFLA_GROUP", 9),
        ("IFLA_LINK", 4),
    ]
    body = witnessed(ifinfmsg, {"index": 7, "flags": 1}, attributes)
    assert replies.link(body) == replies.Link(7, "eth0", MAC, 1280, True, 9, 4, None)


def test_only_links_of_the_group_are_named():
    bodies = [
        witnessed(
            ifinfmsg, {"index": number}, [("IFLA_IFNAME", f"hc{number}"), ("IFLA_MTU", 9), ("IFLA_GROUP", number)]
        )
        for number in (1, 2, 3)
    ]
    assert set(replies.names_in(bodies, (1, 3))) == {"hc1", "hc3"}


def test_a_refusal_names_the_request_the_error_and_the_kernel_s_reason():
    request = requests.add_route(Route(ip_network("10.96.0.0/12"), ip_address("10.9.9.9")), "eth0", 7)
    refusal = Failure(request, 101, "Nexthop has invalid gateway").refusal
    assert refusal.msg == "the kernel refused to add the route 10.96.0.0/12 via 10.9.9.9 to eth0"
    assert refusal.details == "Network is unreachable (ENETUNREACH): Nexthop has invalid gateway"


# --- differences, in words


def held(**changes) -> Held:
    link = replies.Link(7, "eth0", PEER_MAC, 1280, True, 0, 4, 0)
    values = {
        "link": link,
        "addresses": frozenset([(each, each.max_prefixlen) for each in END.addresses]),
        "routes": frozenset(END.routes),
        "neighbours": frozenset([(each, True) for each in END.neighbours]),
    }
    return Held(**{**values, **changes})


def test_what_is_as_it_must_be_has_no_differences():
    assert list(differences(END, held())) == []


def test_what_others_added_is_no_difference():
    more = held(
        routes=frozenset([*END.routes, Route(ip_network("192.0.2.0/24"), GW4)]),
        addresses=held().addresses | {(ip_address("192.0.2.1"), 24)},
    )
    assert list(differences(END, more)) == []


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (None, "eth0: the interface is missing"),
        (
            held(addresses=frozenset([(ip_address("10.244.1.7"), 24), (ip_address("fd00::7"), 128)])),
            "eth0: address 10.244.1.7/32 is missing, found 10.244.1.7/24",
        ),
        (
            held(routes=frozenset([Route(ip_network("0.0.0.0/0"), GW4, mtu=9), END.routes[1]])),
            "eth0: route 0.0.0.0/0 via 10.244.1.1 is missing, found 0.0.0.0/0 via 10.244.1.1 mtu 9",
        ),
        (
            held(neighbours=frozenset([(Neighbour(GW4, MAC), False)])),
            "eth0: neighbour 10.244.1.1 at 02:00:00:00:00:01 (permanent) is missing, "
            "found 10.244.1.1 at 02:00:00:00:00:01",
        ),
    ],
)
def test_a_difference_names_the_field_what_is_expected_and_what_is_found(found, sentence):
    assert list(differences(END, found)) == [sentence]
