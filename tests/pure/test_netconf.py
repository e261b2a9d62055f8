"""What the network configuration may say, and what it is told when it says something else: field, value and cure."""

import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni.result import Dns, Route
from cni.spec import Code, Refusal
from reconciler.ipam.pool import PoolSpec, Strategy
from reconciler.netconf import NetConf, parse, with_node_pools, without_delegate_secrets

V4, V6 = ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")


def raw(**keys):
    body = {"cniVersion": "1.1.0", "name": "net", "type": "headcni", **keys}
    return json.dumps({key: value for key, value in body.items() if value is not ...}).encode()


def conf(**keys) -> NetConf:
    parsed = parse(raw(**keys))
    assert isinstance(parsed, NetConf), parsed
    return parsed


def refusal(**keys) -> Refusal:
    parsed = parse(raw(**keys))
    assert isinstance(parsed, Refusal), parsed
    return parsed


def ipam(**keys):
    return {"ipam": {"type": "headcni-ipam", "subnet": "10.244.1.0/24", **keys}}


def ranges(*subnets, **keys):
    return {"ipam": {"ranges": [[{"subnet": subnet}] for subnet in subnets], **keys}}


# --- good ones

GOOD = {
    "no ipam": ({}, {"pools": (), "delegate": None, "mtu": None, "ipv6": True, "network_policy": True}),
    "null ipam": ({"ipam": None}, {"pools": ()}),
    "subnet": (ipam(), {"pools": (PoolSpec(V4),)}),
    "smallest subnet": (ipam(subnet="10.244.1.0/31"), {"pools": (PoolSpec(ip_network("10.244.1.0/31")),)}),
    "gateway": (ipam(gateway="10.244.1.254"), {"pools": (PoolSpec(V4, ip_address("10.244.1.254")),)}),
    "range": (
        ipam(rangeStart="10.244.1.10", rangeEnd="10.244.1.20"),
        {"pools": (PoolSpec(V4, None, ip_address("10.244.1.10"), ip_address("10.244.1.20")),)},
    ),
    "exclude": (
        ipam(exclude=["10.244.1.0/28", "10.244.1.99"]),
        {"pools": (PoolSpec(V4, exclude=(ip_network("10.244.1.0/28"), ip_network("10.244.1.99/32"))),)},
    ),
    "dual stack": (ranges(str(V4), str(V6)), {"pools": (PoolSpec(V4), PoolSpec(V6))}),
    "general keys over ranges": (
        ranges(str(V4), str(V6), gateway="10.244.1.9", exclude=["fd00:244:1::/120"]),
        {"pools": (PoolSpec(V4, ip_address("10.244.1.9")), PoolSpec(V6, exclude=(ip_network("fd00:244:1::/120"),)))},
    ),
    "a range's own gateway wins": (
        {"ipam": {"gateway": "10.244.1.9", "ranges": [[{"subnet": str(V4), "gateway": "10.244.1.8"}]]}},
        {"pools": (PoolSpec(V4, ip_address("10.244.1.8")),)},
    ),
    "IPv6 wanted": ({"enable_ipv6": True, **ipam(subnet=str(V6))}, {"pools": (PoolSpec(V6),), "ipv6": True}),
    "IPv6 not wanted": ({"enable_ipv6": False, **ipam()}, {"ipv6": False}),
    "delegate": ({"ipam": {"type": "host-local", "subnet": "what it likes"}}, {"delegate": "host-local", "pools": ()}),
    "MTU": ({"mtu": 1400}, {"mtu": 1400}),
    "MTU 0": ({"mtu": 0}, {"mtu": None}),
    "routes": (
        ipam(routes=[{"dst": "10.0.0.0/8", "gw": "10.244.1.1", "mtu": 1300}, {"dst": "::/0"}]),
        {"routes": (Route("10.0.0.0/8", "10.244.1.1", 1300), Route("::/0"))},
    ),
    "dns": ({"dns": {"nameservers": ["10.96.0.10"], "domain": "x"}}, {"dns": Dns(("10.96.0.10",), "x")}),
    "dns in ipam": (ipam(dns={"search": ["x"]}), {"dns": Dns(search=("x",))}),
    "service CIDR": ({"service_cidr": "10.96.0.0/12"}, {"service_cidrs": (ip_network("10.96.0.0/12"),)}),
    "service CIDRs": (
        {"service_cidr": "10.96.0.0/12, fd01::/112"},
        {"service_cidrs": (ip_network("10.96.0.0/12"), ip_network("fd01::/112"))},
    ),
    "service CIDR left empty": ({"service_cidr": "", "pod_cidr": ""}, {"service_cidrs": ()}),
    "pod CIDR": ({"pod_cidr": "10.244.0.0/16"}, {"unknown": ()}),
    "policy off": ({"enable_network_policy": False}, {"network_policy": False}),
    "addresses asked for": (
        {"runtimeConfig": {"ips": ["10.244.1.7/24", "fd00:244:1::7"]}},
        {"asked": (ip_address("10.244.1.7"), ip_address("fd00:244:1::7"))},
    ),
    "addresses in args": ({"args": {"cni": {"ips": ["10.244.1.7"]}}}, {"asked": (ip_address("10.244.1.7"),)}),
    "valid attachments": (
        {"cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}]},
        {"valid_attachments": frozenset({"c@eth0"})},
    ),
    "what has no effect": (
        {"headscale_url": "x", "tailscale_socket": "y", "magic_dns": {}, "ipMasq": True, "state_dir": "/s"},
        {"unknown": ()},
    ),
    "unknown keys": ({"colour": 1, **ipam(shade=2)}, {"unknown": ("colour", "ipam.shade")}),
    "longest timeout": ({"timeout_seconds": 110}, {}),
    "oldest version": ({"cniVersion": "0.3.1"}, {"cni_version": "0.3.1"}),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good(kind):
    keys, expected = GOOD[kind]
    parsed = conf(**keys)
    assert {name: getattr(parsed, name) for name in expected} == expected


def test_strategy_and_cooldown_take_no_part_in_the_equality_of_pools_but_are_read():
    (pool,) = conf(**ipam(allocation_strategy="dense-pack", cooldown_seconds=0.5)).pools
    assert (pool.strategy, pool.cooldown) == (Strategy.DENSE_PACK, 0.5)


def test_the_same_bytes_are_parsed_once():
    assert parse(raw(mtu=1401)) is parse(raw(mtu=1401))


# --- bad ones: every problem has field, value and cure

BAD = {
    "no name": ({"name": ...}, "name: null is missing; every network has a name"),
    "a name with a slash": ({"name": "a/b"}, 'name: "a/b" may hold letters'),
    "subnet too small": (ipam(subnet="10.244.1.0/32"), "ipam.subnet: 10.244.1.0/32 has no room", "smallest", "/31"),
    "subnet without prefix": (ipam(subnet="10.244.1.0"), 'ipam.subnet: "10.244.1.0" is not a subnet; write one with'),
    "subnet that is none": (ipam(subnet="10.244.256.0/24"), "ipam.subnet", "10.244.256.0/24", "write"),
    "subnet that is a number": (ipam(subnet=7), "ipam.subnet: 7 is not a subnet; write"),
    "subnet null": (ipam(subnet=None), "ipam.subnet: null is not a subnet; write"),
    "host bits": (ipam(subnet="10.244.1.7/24"), "ipam.subnet", "10.244.1.7/24", "write 10.244.1.0/24"),
    "overlap": (ranges("10.244.1.0/24", "10.244.1.128/25"), "10.244.1.0/24 and 10.244.1.128/25 overlap", "its own"),
    "two ranges in a set": ({"ipam": {"ranges": [[{}, {}]]}}, "ipam.ranges[0]: […] does not hold exactly one range"),
    "range without subnet": ({"ipam": {"ranges": [[{}]]}}, "ipam.ranges[0][0].subnet: null is not a subnet; write"),
    "gateway outside": (ipam(gateway="10.9.9.9"), "ipam.gateway: 10.9.9.9 is outside", "choose"),
    "gateway at an edge": (ipam(gateway="10.244.1.0"), "ipam.gateway: 10.244.1.0 is an edge", "choose"),
    "gateway with prefix": (ipam(gateway="10.244.1.1/24"), 'ipam.gateway: "10.244.1.1/24"', "without a prefix"),
    "gateway with zone": (ipam(subnet="fe80::/64", gateway="fe80::1%eth0"), "ipam.gateway", "fe80::1%eth0", "write"),
    "gateway of no family": (ipam(gateway="fd00::1"), "ipam.gateway: fd00::1 fits no pool", "add an IPv6 subnet"),
    "range outside": (ipam(rangeStart="10.9.9.9"), "ipam.rangeStart: 10.9.9.9 is outside", "choose"),
    "range backwards": (
        ipam(rangeStart="10.244.1.20", rangeEnd="10.244.1.10"),
        "ipam.rangeStart: 10.244.1.20 comes after ipam.rangeEnd 10.244.1.10; exchange them",
    ),
    "exclude no list": (ipam(exclude="10.244.1.0/28"), 'ipam.exclude: "10.244.1.0/28" is not a list; write'),
    "exclude nonsense": (ipam(exclude=["here"]), 'ipam.exclude: "here" is not an IP address; write'),
    "exclude host bits": (ipam(exclude=["10.244.1.3/28"]), "ipam.exclude", "10.244.1.3/28", "write 10.244.1.0/28"),
    "exclude of no family": (ipam(exclude=["fd00::/64"]), "ipam.exclude: fd00::/64 fits no pool", "remove it"),
    "exclude everything": (ipam(exclude=["10.244.1.0/24"]), "ipam.exclude: 10.244.1.0/24 leaves nothing", "less"),
    "a range's stray": (
        {"ipam": {"ranges": [[{"subnet": "10.244.1.0/24", "gateway": "fd00::1"}], [{"subnet": "fd00::/64"}]]}},
        "ipam.ranges[0][0].gateway: fd00::1 fits no pool",
    ),
    "strategy": (
        ipam(allocation_strategy="bogus"),
        'ipam.allocation_strategy: "bogus"',
        "sequential, random, dense-pack",
    ),
    "strategy a list": (ipam(allocation_strategy=["random"]), "ipam.allocation_strategy: […]", "write one of"),
    "cooldown text": (
        ipam(cooldown_seconds="x"),
        'ipam.cooldown_seconds: "x"',
        "from 0 to 3600; the usual value is 30",
    ),
    "cooldown true": (ipam(cooldown_seconds=True), "ipam.cooldown_seconds: true", "usual value"),
    "cooldown huge": (ipam(cooldown_seconds=1e12), "ipam.cooldown_seconds: 1000000000000.0", "from 0 to 3600"),
    "cooldown negative": (ipam(cooldown_seconds=-1), "ipam.cooldown_seconds: -1", "from 0 to 3600"),
    "ipam no object": ({"ipam": []}, "ipam: [] is not an object; write"),
    "ipam.type a path": ({"ipam": {"type": "../x"}}, 'ipam.type: "../x" is not the name', "host-local"),
    "ipam.type a number": ({"ipam": {"type": 5}}, "ipam.type: 5 is not the name", "host-local"),
    "MTU small": ({"mtu": 100}, "mtu: 100 is not a whole number from 576 to 65535; leave it out"),
    "MTU text": ({"mtu": "1400"}, 'mtu: "1400" is not a whole number', "leave it out"),
    "MTU false": ({"mtu": False}, "mtu: false is not a whole number", "leave it out"),
    "MTU deep": ({"mtu": [[["x"]]]}, "mtu: […] is not a whole number"),
    "MTU for IPv6": ({"mtu": 600, **ipam(subnet=str(V6))}, "mtu: 600 is too small for IPv6", "leave it out"),
    "IPv6 contradiction": (
        {"enable_ipv6": False, **ipam(subnet=str(V6))},
        "enable_ipv6: false contradicts the IPv6 subnet in ipam; set it to true",
    ),
    "IPv6 text": ({"enable_ipv6": "no"}, 'enable_ipv6: "no" is neither true nor false'),
    "policy text": ({"enable_network_policy": 1}, "enable_network_policy: 1 is neither true nor false"),
    "timeout": ({"timeout_seconds": 111}, "timeout_seconds: 111 is not a whole number from 1 to 110"),
    "service CIDR": ({"service_cidr": "foo"}, 'service_cidr: "foo" is not a subnet; write one with its prefix'),
    "service CIDR, one of two": ({"service_cidr": "10.96.0.0/12,foo"}, 'service_cidr: "foo" is not a subnet; write'),
    "service CIDR host bits": ({"service_cidr": "10.96.0.1/12"}, "service_cidr", "10.96.0.1/12", "write 10.96.0.0/12"),
    "service CIDR a list": ({"service_cidr": ["10.96.0.0/12"]}, "service_cidr: […] is not a subnet; write"),
    "pod CIDR": ({"pod_cidr": "10.244.0.0"}, 'pod_cidr: "10.244.0.0" is not a subnet; write one with its prefix'),
    "route without dst": (ipam(routes=[{}]), "ipam.routes[0].dst: null is not a subnet; write"),
    "route of two families": (
        ipam(routes=[{"dst": "::/0", "gw": "10.244.1.1"}]),
        'ipam.routes[0].gw: "10.244.1.1" is not of the family of ::/0; write',
    ),
    "route MTU": (
        ipam(routes=[{"dst": "::/0", "mtu": 1 << 40}]),
        "ipam.routes[0].mtu: 1099511627776 is not",
        "from 0 to",
    ),
    "dns": ({"dns": {"nameservers": "10.96.0.10"}}, 'dns.nameservers: "10.96.0.10" is not a list; write'),
    "dns of numbers": ({"dns": {"search": [1]}}, "dns.search: 1 is not a string; write"),
    "dns domain": ({"dns": {"domain": 1}}, "dns.domain: 1 is not a name, such as"),
    "asked nonsense": ({"runtimeConfig": {"ips": ["x"]}}, 'runtimeConfig.ips: "x" is not an IP address; write'),
    "asked in args": ({"args": {"cni": {"ips": [7]}}}, "args.cni.ips: 7 is not an IP address; write"),
    "GC without names": (
        {"cni.dev/valid-attachments": [{}]},
        "cni.dev/valid-attachments: {} lacks containerID or ifname",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_is_told_with_field_value_and_cure(kind):
    keys, *words = BAD[kind]
    told = refusal(**keys)
    assert told.code == Code.INVALID_CONFIGURATION
    assert [word for word in words if word not in told.details] == [], told.details


def test_everything_wrong_is_told_at_once_and_once():
    keys = ranges("10.1.0.0/24", "fd00::/64", exclude=["x/y"], allocation_strategy="bogus")
    details = refusal(mtu=1, service_cidr="foo", **keys).details
    assert [details.count(word) for word in ("mtu:", "service_cidr:", "ipam.exclude:", "allocation_strategy:")] == [
        1
    ] * 4


@pytest.mark.parametrize("sent", [b"", b" \n", b'{"cniVersion": "1.0.0", "na', b"[]", b"\xff\xfe"])
def test_what_is_no_object_is_a_decoding_failure(sent):
    told = parse(sent)
    assert isinstance(told, Refusal)
    assert told.code == Code.DECODE_FAILURE
    assert told.details


@pytest.mark.parametrize("version", ["9.9.9", "0.2.0", 1, None, ["1.0.0"], ...])
def test_an_unsupported_version_is_told_which_are(version):
    told = refusal(cniVersion=version)
    assert told.code == Code.INCOMPATIBLE_VERSION
    assert "1.1.0" in told.details


_KEYS = ("ipam", "subnet", "ranges", "gateway", "rangeEnd", "exclude", "allocation_strategy", "cooldown_seconds", "mtu")
_MORE = ("routes", "dst", "gw", "dns", "search", "service_cidr", "enable_ipv6", "runtimeConfig", "ips", "args", "cni")
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from([str(V4), str(V6), "10.244.1.9", "fd00:244:1::9", "::/0", "0.0.0.0/32", "random", "headcni-ipam"]),
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS + _MORE), inner, max_size=4),
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(_KEYS + _MORE), _JSON, max_size=6))
def test_nothing_is_a_fault(body):
    parsed = parse(raw(**body))
    if isinstance(parsed, NetConf) and not parsed.pools and not parsed.delegate:
        parsed = with_node_pools(parsed, (V4, V6))
    if isinstance(parsed, Refusal):
        assert parsed.details
    else:
        assert isinstance(parse(raw(**parsed.remembered)), NetConf)


# --- what is remembered


def test_a_record_keeps_only_known_keys_of_our_own_configuration():
    keys = {"password": "s3cret", "headscale_url": "https://user:s3cret@x", "dns": {"domain": "x", "key": "s3cret"}}
    kept = conf(mtu=1400, **keys, **ranges(str(V4), token="s3cret", cooldown_seconds=9)).remembered
    assert kept["mtu"] == 1400
    assert kept["ipam"] == {"cooldown_seconds": 9, "ranges": [[{"subnet": str(V4)}]]}
    assert "s3cret" not in json.dumps(kept)


def test_a_record_keeps_of_a_range_only_known_keys():
    kept = conf(ipam={"ranges": [[{"subnet": str(V4), "token": "s3cret"}]]}).remembered
    assert kept["ipam"] == {"ranges": [[{"subnet": str(V4)}]]}


def test_a_live_record_keeps_what_its_delegate_needs_to_delete():
    asked = {"type": "infoblox", "password": "s3cret", "view": {"name": "x"}}
    assert conf(ipam=asked, password="other").remembered["ipam"] == asked


def test_a_closed_record_keeps_of_a_delegate_its_name():
    live = {**conf(mtu=1400, ipam={"type": "infoblox", "password": "s3cret"}).remembered, "cni_path": "/opt/cni/bin"}
    closed = without_delegate_secrets(live)
    assert closed == {**live, "ipam": {"type": "infoblox"}}
    assert live["ipam"]["password"] == "s3cret"  # of the record that still lives


@pytest.mark.parametrize("kept", [{}, {"mtu": 1400}, {"ipam": {"subnet": "x"}}, {"ipam": {"type": "headcni-ipam"}}])
def test_a_closed_record_keeps_our_own_configuration(kept):
    assert without_delegate_secrets(kept) == kept


# --- the node's pod CIDRs


def on_node(*cidrs, **keys):
    return with_node_pools(conf(**keys), cidrs)


def test_the_keys_of_ipam_hold_for_the_nodes_pools_of_their_family():
    keys = {"gateway": "10.244.1.9", "rangeEnd": "fd00:244:1::ff", "exclude": ["10.244.1.0/29", "fd00:244:1::/125"]}
    fitted = on_node(V4, V6, ipam={**keys, "allocation_strategy": "random", "cooldown_seconds": 5})
    assert fitted.pools == (
        PoolSpec(V4, ip_address("10.244.1.9"), exclude=(ip_network("10.244.1.0/29"),)),
        PoolSpec(V6, range_end=ip_address("fd00:244:1::ff"), exclude=(ip_network("fd00:244:1::/125"),)),
    )
    assert [(pool.strategy, pool.cooldown) for pool in fitted.pools] == [(Strategy.RANDOM, 5.0)] * 2


def test_without_enable_ipv6_every_family_is_used_and_with_false_only_ipv4():
    assert [pool.subnet for pool in on_node(V4, V6).pools] == [V4, V6]
    assert [pool.subnet for pool in on_node(V4, V6, enable_ipv6=False).pools] == [V4]


@pytest.mark.parametrize(
    ("cidrs", "keys", "words"),
    [
        ((), {}, ["ipam.subnet: missing", "--pod-cidr"]),
        ((V6,), {"enable_ipv6": False}, ["enable_ipv6: false", str(V6), "set it to true"]),
        ((V4,), {"ipam": {"gateway": "10.9.9.9"}}, ["ipam.gateway: 10.9.9.9 is outside", str(V4), "choose"]),
        ((V4,), {"ipam": {"gateway": "fd00::1"}}, ["ipam.gateway: fd00::1 fits no pool", "add an IPv6 subnet"]),
        ((V4,), {"ipam": {"rangeStart": "10.9.9.9"}}, ["ipam.rangeStart: 10.9.9.9 is outside", "choose"]),
        ((V4,), {"ipam": {"exclude": ["fd00::/64"]}}, ["ipam.exclude: fd00::/64 fits no pool", "remove it"]),
        ((V4,), {"ipam": {"exclude": [str(V4)]}}, [f"ipam.exclude: {V4} leaves nothing", "exclude less"]),
        ((V4, V6), {"mtu": 600}, ["mtu: 600 is too small for IPv6", "leave it out"]),
    ],
)
def test_what_does_not_fit_the_node_is_told_with_field_value_and_cure(cidrs, keys, words):
    told = on_node(*cidrs, **keys)
    assert isinstance(told, Refusal)
    assert told.code == Code.INVALID_CONFIGURATION
    assert [word for word in words if word not in str(told)] == [], told


@pytest.mark.parametrize("key", ["allocation_strategy", "cooldown_seconds", "exclude", "gateway"])
def test_nonsense_is_refused_without_a_subnet_too(key):
    assert f"ipam.{key}: " in refusal(ipam={key: "bogus"}).details


def test_a_small_mtu_is_enough_where_ipv6_is_not_wanted():
    assert on_node(V4, V6, mtu=600, enable_ipv6=False).mtu == 600
