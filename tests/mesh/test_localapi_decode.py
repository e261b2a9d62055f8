"""tailscaled's JSON as values: everything that is there, nothing that is not, and no exception whatever comes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.localapi_decode import notice, preferences, tailnet, unsuitable, version
from reconciler.mesh.model import Peer, Prefs, Tailnet
from reconciler.mesh.ports import Notice

PEER = {
    "ID": "2",
    "PublicKey": "nodekey:354b",
    "HostName": "host",
    "DNSName": "n2.tail.example.",
    "TailscaleIPs": ["100.64.0.2", "fd7a:115c:a1e0::2"],
    "AllowedIPs": ["10.244.2.0/24", "100.64.0.2/32", "fd00:10:244:2::/64", "fd7a:115c:a1e0::2/128"],
    "PrimaryRoutes": ["10.244.2.0/24"],
    "CurAddr": "192.0.2.7:41641",
    "Relay": "lab",
    "Online": True,
    "KeyExpiry": "2026-11-21T15:00:01Z",
    "Expired": True,
}


def peer(**changes):
    return tailnet({"Peer": {"nodekey:354b": {**PEER, **changes}}}).peers["nodekey:354b"]


def networks(*texts):
    return frozenset(map(ip_network, texts))


def test_a_peer():
    assert peer() == Peer(
        key="nodekey:354b",
        id="2",
        name="n2",
        dns_name="n2.tail.example",
        addresses=(ip_address("100.64.0.2"), ip_address("fd7a:115c:a1e0::2")),
        routes=networks("10.244.2.0/24", "fd00:10:244:2::/64"),
        primary=networks("10.244.2.0/24"),
        online=True,
        expired=True,
        key_expiry="2026-11-21T15:00:01Z",
        direct="192.0.2.7:41641",
        relay="lab",
    )


def test_a_peer_without_a_name_in_the_tailnet_has_its_host_name():
    assert peer(DNSName="").name == "host"


def test_addresses_of_others_are_routes():
    assert peer(AllowedIPs=["100.64.0.9/32", "0.0.0.0/0"]).routes == networks("100.64.0.9/32", "0.0.0.0/0")


def test_what_cannot_be_read_is_passed_over_and_the_rest_is_not():
    seen = peer(AllowedIPs=["banana", None, 7, "10.244.2.9/24", "10.244.3.0/24"], TailscaleIPs=["x", "100.64.0.2", {}])
    assert seen.routes == networks("10.244.3.0/24")
    assert seen.addresses == (ip_address("100.64.0.2"),)


def test_a_peer_whose_own_key_is_missing_has_the_one_it_is_listed_under():
    assert tailnet({"Peer": {"nodekey:aa": {"ID": "3"}}}).peers["nodekey:aa"].id == "3"


def test_a_tailnet():
    node = {"DNSName": "me.t.example.", "PublicKey": "nodekey:1"}
    seen = tailnet(
        {
            "Version": "1.102.3",
            "BackendState": "Running",
            "HaveNodeKey": True,
            "TUN": True,
            "AuthURL": "http://192.0.2.1/register/x",
            "Health": ["one", "two"],
            "Self": node,
            "Peer": {"nodekey:354b": PEER},
            "MagicDNSSuffix": "old.example",
            "CurrentTailnet": {"MagicDNSSuffix": "t.example", "MagicDNSEnabled": True},
        }
    )
    assert (seen.version, seen.state, seen.running, seen.has_node_key) == ("1.102.3", "Running", True, True)
    assert (seen.auth_url, seen.health) == ("http://192.0.2.1/register/x", ("one", "two"))
    assert (seen.me.name, seen.me.key, list(seen.peers)) == ("me", "nodekey:1", ["nodekey:354b"])
    assert (seen.magic_suffix, seen.magic_enabled) == ("t.example", True)


def test_a_status_that_says_nothing():
    seen = tailnet({})
    assert (seen.state, seen.tun, seen.me.key, dict(seen.peers)) == ("NoState", True, "", {})


@pytest.mark.parametrize("key", ["", "nodekey:" + "0" * 64])
def test_a_node_that_never_joined_has_no_key(key):
    assert tailnet({"Self": {"PublicKey": key}}).me.key == ""


def test_a_peer_as_before_is_the_same_object():
    """Comparing two answers of a thousand peers rests on it."""
    body = orjson.dumps({"Peer": {"nodekey:354b": {**PEER, "RxBytes": 1}}})
    first, second = (tailnet(orjson.loads(each)) for each in (body, body.replace(b'"RxBytes":1', b'"RxBytes":2')))
    assert first.peers["nodekey:354b"] is second.peers["nodekey:354b"]


def test_preferences():
    raw = {"ControlURL": "http://c", "WantRunning": True, "AdvertiseRoutes": ["b/1", "a/1", "b/1"], "Future": {"x": 1}}
    seen = preferences({**raw, "Config": {"PrivateNodeKey": "privkey:000"}})
    assert seen == Prefs("http://c", want_running=True, advertise=("b/1", "a/1", "b/1"), raw=raw)


@pytest.mark.parametrize("routes", [None, []])
def test_announcing_nothing(routes):
    assert preferences({"AdvertiseRoutes": routes}).advertise == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"Version":"1","State":null}', Notice()),
        (b'{"SelfChange":{"ID":2}}', Notice(about_me=True)),
        (b'{"SelfChange":null,"NetMap":null}', Notice()),
        (b'{"NetMap":{"SelfNode":{}}}', Notice(about_me=True)),
        (None, Notice(about_me=True)),
        (b'{"Prefs":{"AdvertiseRoutes":["10.0.0.0/8"]}}', Notice(written=(("10.0.0.0/8",),))),
        (b'{"Prefs":{"AdvertiseRoutes":null}}', Notice(written=((),))),
        (b'{"Prefs":null}', Notice()),
        (b'{"ErrMessage":"invalid pre auth key"}', Notice(error="invalid pre auth key")),
        (b"", Notice()),
        (b"\xff{", Notice()),
        (b"[1]", Notice()),
    ],
)
def test_a_line_of_the_bus(line, said):
    assert notice(line) == said


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("1.102.3-ERR-BuildInfo", (1, 102, 3)),
        ("1.66.0-t0b2c1d-g1234", (1, 66, 0)),
        ("1.66", (1, 66, 0)),
        ("date.20260101", None),
        ("", None),
    ],
)
def test_versions(text, known):
    assert version(text) == known


@pytest.mark.parametrize("text", ["1.66.0", "1.102.3-ERR-BuildInfo", "2.0", "", "unstable"])
def test_versions_that_can_carry_pods(text):
    assert unsuitable(tailnet({"Version": text})) is None


@pytest.mark.parametrize("text", ["1.65.9", "1.64.2-tabc", "0.98.0"])
def test_versions_that_cannot(text):
    refusal = unsuitable(tailnet({"Version": text}))
    assert isinstance(refusal, Refusal)
    assert refusal.code == Trouble.TAILSCALED_UNSUITABLE
    assert text in refusal.msg
    assert "1.66.0" in refusal.msg
    assert "NoStatefulFiltering" in refusal.details


def test_userspace_networking_cannot():
    refusal = unsuitable(tailnet({"Version": "1.102.3", "TUN": False}))
    assert isinstance(refusal, Refusal)
    assert refusal.code == Trouble.TAILSCALED_UNSUITABLE
    assert "--tun=userspace-networking" in refusal.details


_SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "10.0.0.0/8", "::1", "nodekey:1"])
_NAMES = st.sampled_from([*PEER, "Self", "Peer", "CurrentTailnet", "Health", "Version", "Prefs", "SelfChange", "TUN"])
_JSON = st.recursive(_SCALARS, lambda each: st.lists(each, max_size=3) | st.dictionaries(_NAMES, each, max_size=4))


@given(st.dictionaries(_NAMES, _JSON, max_size=6))
def test_nothing_that_is_json_is_an_exception(body):
    seen = tailnet(body)
    assert isinstance(seen, Tailnet)
    assert unsuitable(seen) is None or seen.version or not seen.tun
    assert isinstance(preferences(body), Prefs)
    assert isinstance(notice(orjson.dumps(body)), Notice)


@pytest.mark.parametrize(
    ("of_self", "owner"),
    [
        ({"UserID": 1}, "pods@"),
        ({"UserID": 1, "Tags": ["tag:k8s", "tag:b"]}, "tag:k8s"),
        ({"UserID": 2}, "me@example.com"),
        ({"UserID": 3}, ""),
        ({}, ""),
    ],
)
def test_who_owns_this_node_is_told_as_a_policy_writes_it(of_self, owner):
    users = {"1": {"LoginName": "pods"}, "2": {"LoginName": "me@example.com"}}
    assert tailnet({"Self": of_self, "User": users}).owner == owner
