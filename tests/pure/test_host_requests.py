"""pyroute2 as the witness, as for the wiring: it writes what the node's own requests write, byte for byte."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from reconciler.node import requests
from reconciler.wiring import codec as nl
from reconciler.wiring.codec import FAMILY, HEADER

NETWORKS = [ip_network("10.244.0.0/16"), ip_network("fd00:244::/32"), ip_network("0.0.0.0/0"), ip_network("::/0")]


def witnessed(message, fields, attributes) -> bytes:
    message = message()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = [(name, value) for name, value in attributes if value is not None]
    message.encode()
    return bytes(message.data)[HEADER.size :]


def destination(network):
    return str(network.network_address) if network.prefixlen else None


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_fence(network):
    head = {"family": FAMILY[network.version], "dst_len": network.prefixlen, "table": 254, "proto": 72, "type": 7}
    item = requests.fence(network)
    assert item.add.body == witnessed(rtmsg, head, [("RTA_DST", destination(network)), ("RTA_PRIORITY", 4000)])
    assert (item.add.kind, item.delete.kind) == (24, 25)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_guard(network):
    head = {"family": FAMILY[network.version], "dst_len": network.prefixlen, "table": 254, "action": 1}
    attributes = [("FRA_DST", destination(network)), ("FRA_PRIORITY", 5000), ("FRA_TABLE", 254), ("FRA_PROTOCOL", 72)]
    item = requests.guard(network)
    assert item.add.body == witnessed(fibmsg, head, attributes)
    assert (item.add.kind, item.delete.kind) == (32, 33)


def test_a_gateway_of_ipv4():
    head = {"family": AF_INET, "prefixlen": 32, "scope": 254, "index": 1}
    attributes = [("IFA_LOCAL", "10.244.1.1"), ("IFA_ADDRESS", "10.244.1.1"), ("IFA_RT_PRIORITY", 0x48434E49)]
    item = requests.gateway(ip_address("10.244.1.1"))
    assert item.add.body == witnessed(ifaddrmsg, head, attributes)
    assert (item.add.kind, item.delete.kind) == (20, 21)


def test_a_gateway_of_ipv6():
    times = {"ifa_preferred": 0, "ifa_valid": 0xFFFFFFFF, "cstamp": 0, "tstamp": 0}
    attributes = [
        ("IFA_LOCAL", "fd00:244:1::1"),
        ("IFA_ADDRESS", "fd00:244:1::1"),
        ("IFA_CACHEINFO", times),
        ("IFA_FLAGS", 0x202),
        ("IFA_RT_PRIORITY", 0x48434E49),
    ]
    theirs = witnessed(ifaddrmsg, {"family": AF_INET6, "prefixlen": 128, "index": 1}, attributes)
    assert requests.gateway(ip_address("fd00:244:1::1")).add.body == theirs


@pytest.mark.parametrize("item", [requests.fence(NETWORKS[0]), requests.guard(NETWORKS[0])], ids=lambda item: item.kind)
def test_what_is_added_takes_no_place_of_others_and_what_is_deleted_carries_our_mark(item):
    assert item.add.flags == nl.CREATE | nl.EXCLUSIVE
    assert item.delete.body == item.add.body


def test_listing_rules():
    assert requests.get_rules().body == witnessed(fibmsg, {}, [])


@pytest.mark.parametrize("link", [0, 7])
def test_listing_one_table(link):
    attributes = [("RTA_TABLE", 52), ("RTA_OIF", link or None)]
    assert requests.get_table(AF_INET6, 52, link).body == witnessed(
        rtmsg, {"family": AF_INET6, "table": 52}, attributes
    )


@pytest.mark.parametrize(
    ("to", "source", "flags"),
    [
        ("10.244.2.7", None, 0x1000),
        ("10.244.2.7", "10.244.1.1", 0x1000),
        ("fd00::7", None, 0),
        ("fd00::7", "fd00::1", 0),
    ],
)
def test_asking_for_a_way(to, source, flags):
    address = ip_address(to)
    bits = address.max_prefixlen
    head = {"family": FAMILY[address.version], "dst_len": bits, "src_len": bits if source else 0, "flags": flags}
    asked = requests.get_way(address, ip_address(source) if source else None)
    assert asked.body == witnessed(rtmsg, head, [("RTA_DST", to), ("RTA_SRC", source)])


def test_each_is_said_as_ip_would_write_it():
    fence, guard = requests.fence(NETWORKS[1]), requests.guard(NETWORKS[0])
    assert fence.by_hand("del") == "ip -6 route del unreachable fd00:244::/32 metric 4000 proto 72"
    assert guard.by_hand("add") == "ip -4 rule add pref 5000 to 10.244.0.0/16 lookup main protocol 72"
    assert guard.add.what == "add the rule pref 5000 to 10.244.0.0/16 lookup main protocol 72"
