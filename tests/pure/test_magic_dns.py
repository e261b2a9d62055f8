"""MagicDNS in the result's `dns`; and the keys of a network configuration that only the daemon may set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni.result import Dns
from cni.spec import Code, Refusal
from fixtures.simulation import Node
from reconciler.netconf import NetConf, overruled, parse

SOCKET = "/var/run/tailscale/tailscaled.sock"
URL = "https://hs.example.com"


def parsed(**keys) -> NetConf | Refusal:
    return parse(json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "headcni", **keys}).encode())


def conf(**keys) -> NetConf:
    read = parsed(**keys)
    assert isinstance(read, NetConf), read
    return read


def magic(**keys):
    return {"magic_dns": {"enable": True, **keys}}


GOOD = {
    "alone": (magic(), Dns(("100.100.100.100",))),
    "base domain": (
        magic(base_domain="tail.example"),
        Dns(("100.100.100.100",), "tail.example", ("tail.example",)),
    ),
    "a dot at the end": (
        magic(base_domain="tail.example."),
        Dns(("100.100.100.100",), "tail.example", ("tail.example",)),
    ),
    "own servers": (magic(nameservers=["fd7a:115c:a1e0::53"]), Dns(("fd7a:115c:a1e0::53",))),
    "search domains": (
        magic(base_domain="tail.example", search_domains=["a.example", "tail.example"]),
        Dns(("100.100.100.100",), "tail.example", ("a.example", "tail.example")),
    ),
    "what a template leaves empty": (
        magic(base_domain="", nameservers=[], search_domains=[]),
        Dns(("100.100.100.100",)),
    ),
    "with dns": (
        {
            **magic(base_domain="tail.example", search_domains=["a.example"]),
            "dns": {
                "nameservers": ["10.96.0.10", "100.100.100.100"],
                "domain": "cluster.local",
                "search": ["svc.cluster.local", "a.example"],
                "options": ["ndots:5"],
            },
        },
        Dns(
            ("100.100.100.100", "10.96.0.10"),
            "cluster.local",
            ("svc.cluster.local", "a.example", "tail.example"),
            ("ndots:5",),
        ),
    ),
    "with dns of ipam": (
        {**magic(), "ipam": {"dns": {"nameservers": ["10.96.0.10"]}}},
        Dns(("100.100.100.100", "10.96.0.10")),
    ),
    "not enabled": (
        {"magic_dns": {"enable": False, "base_domain": "tail.example"}, "dns": {"domain": "x"}},
        Dns(domain="x"),
    ),
    "not said to be enabled": ({"magic_dns": {"base_domain": "tail.example"}}, Dns()),
    "null": ({"magic_dns": None}, Dns()),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good(kind):
    keys, expected = GOOD[kind]
    assert conf(**keys).dns == expected


def test_an_unknown_key_inside_is_let_through_and_named():
    assert conf(**magic(domain="x")).unknown == ("magic_dns.domain",)


BAD = {
    "no object": ({"magic_dns": True}, "magic_dns: true is not an object"),
    "enable": ({"magic_dns": {"enable": "yes"}}, 'magic_dns.enable: "yes" is neither true nor false'),
    "base domain a list": (magic(base_domain=["x"]), "magic_dns.base_domain: […] is not a domain name, such as"),
    "base domain a URL": (magic(base_domain="http://x"), 'magic_dns.base_domain: "http://x" is not a domain name'),
    "base domain of two lines": (magic(base_domain="x\nnameserver y"), "magic_dns.base_domain", "is not a domain name"),
    "base domain only a dot": (magic(base_domain="."), 'magic_dns.base_domain: "." is not a domain name'),
    "base domain with a gap": (magic(base_domain="a..b"), 'magic_dns.base_domain: "a..b" is not a domain name'),
    "base domain too long": (magic(base_domain="a." * 127 + "b"), "magic_dns.base_domain", "is not a domain name"),
    "servers no list": (magic(nameservers="100.100.100.100"), "magic_dns.nameservers", "is not a list; write"),
    "a server's name": (magic(nameservers=["ns.example"]), 'magic_dns.nameservers: "ns.example" is not an IP address'),
    "search no list": (magic(search_domains="x"), 'magic_dns.search_domains: "x" is not a list'),
    "search a number": (magic(search_domains=[7]), "magic_dns.search_domains: 7 is not a domain name"),
    "wrong where it is not enabled": ({"magic_dns": {"nameservers": [7]}}, "magic_dns.nameservers: 7 is not an IP"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_is_told_with_field_value_and_cure(kind):
    keys, *words = BAD[kind]
    told = parsed(**keys)
    assert isinstance(told, Refusal)
    assert told.code == Code.INVALID_CONFIGURATION
    assert [word for word in words if word not in told.details] == [], told.details


# --- the control server and tailscaled are the daemon's affair


def told(given, url=URL, socket=SOCKET):
    return dict(overruled(conf(**given), url, Path(socket)))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"headscale_url": "", "tailscale_socket": ""},
        {"headscale_url": URL, "tailscale_socket": SOCKET},
        {"headscale_url": "HTTPS://HS.Example.com:443/"},
        {"tailscale_socket": "/var/run/tailscale/../tailscale/tailscaled.sock"},
    ],
)
def test_the_same_as_the_daemons_is_nothing_to_tell(given):
    assert told(given) == {}


def test_another_spelling_of_the_socket_is_the_same_socket(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "var-run").symlink_to("run")
    assert told({"tailscale_socket": f"{tmp_path}/var-run/t.sock"}, socket=f"{tmp_path}/run/t.sock") == {}


@pytest.mark.parametrize(
    ("given", "key", "ours"),
    [
        ({"headscale_url": "https://other.example.com"}, "headscale_url", URL),
        ({"headscale_url": "https://user:s3cret@hs.example.com"}, "headscale_url", URL),
        ({"headscale_url": 7}, "headscale_url", URL),
        ({"tailscale_socket": "/run/other.sock"}, "tailscale_socket", SOCKET),
        ({"tailscale_socket": "relative.sock"}, "tailscale_socket", SOCKET),
        ({"tailscale_socket": "/run/a\0b"}, "tailscale_socket", SOCKET),
        ({"tailscale_socket": ["x"]}, "tailscale_socket", SOCKET),
    ],
)
def test_another_is_told_with_the_daemons(given, key, ours):
    (found,) = told(given).items()
    assert found[0] == key
    assert ours in found[1]
    assert "s3cret" not in found[1]


def test_a_daemon_without_a_headscale_says_so():
    assert told({"headscale_url": URL}, url="") == {"headscale_url": "headscale.url (none)"}


# --- through a daemon


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.stop()


def test_a_pods_result_has_the_name_servers(node):
    assert node.add(**magic(base_domain="tail.example")).body["dns"] == {
        "nameservers": ["100.100.100.100"],
        "domain": "tail.example",
        "search": ["tail.example"],
    }


def test_what_has_no_effect_is_warned_about_under_one_key_for_each_network(node, monkeypatch):
    warned = []
    monkeypatch.setattr(node.desk, "warn", lambda key, text: warned.append((key, text)))
    for container in ("a", "b"):
        node.add(container, headscale_url="https://user:s3cret@hs.example.com", tailscale_socket=SOCKET)
    about = {(key, text) for key, text in warned if "headscale_url" in text}
    [(key, text)] = about
    assert key.startswith("overruled ")
    assert "has no effect" in text
    assert [text for _, text in warned if "tailscale_socket" in text or "s3cret" in text] == []
