"""Flannel's files, whole, cut and odd, and what each backend means."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from reconciler.migrate import backends, flannel
from reconciler.migrate.formats import Lease, NetConf, SubnetEnv, lease, net_conf, reserved, subnet_env
from reconciler.plainyaml import Malformed

FLANNEL = Path(__file__).parents[2] / "fixtures" / "flannel"
PREFIX = "flannel.alpha.coreos.com/"
V4 = (ip_network("10.244.0.0/16"),)


def nets(*texts):
    return tuple(map(ip_network, texts))


# --- subnet.env


@pytest.mark.parametrize(
    ("kind", "understood"),
    [
        ("vxlan", SubnetEnv(V4, nets("10.244.1.0/24"), 1450, True)),
        (
            "dual-stack",
            SubnetEnv(nets("10.244.0.0/16", "fd42:244::/48"), nets("10.244.1.0/24", "fd42:244:0:1::/64"), 1450, True),
        ),
        ("ipv6-only", SubnetEnv(nets("fd42:244::/48"), nets("fd42:244:0:1::/64"), 1430, True)),
        ("k3s", SubnetEnv(nets("10.42.0.0/16"), nets("10.42.1.0/24"), 1420, True)),
    ],
)
def test_a_node_knows_its_subnet(kind, understood):
    assert subnet_env((FLANNEL / kind / "run/flannel/subnet.env").read_bytes()) == understood


@pytest.mark.parametrize(
    ("name", "understood"),
    [
        ("no-masquerade", SubnetEnv(V4, nets("10.244.1.0/24"), 8951, False)),
        ("odd-white-space", SubnetEnv(V4, nets("10.244.1.0/24"), 1450, True)),
        ("several-networks", SubnetEnv((*V4, ip_network("10.245.0.0/16")), nets("10.245.1.0/25"), 1450, True)),
    ],
)
def test_less_usual_ones_are_understood(name, understood):
    assert subnet_env((FLANNEL / f"subnet-env/{name}.env").read_bytes()) == understood


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("cut", "has no FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET, no FLANNEL_MTU, no FLANNEL_IPMASQ: it is cut off"),
        ("empty", "has no FLANNEL_NETWORK or FLANNEL_IPV6_NETWORK, no FLANNEL_SUBNET"),
        ("binary", "has no FLANNEL_NETWORK"),
        ("masquerade-cut", "has FLANNEL_IPMASQ=tru, which is neither true nor false"),
        ("mtu-no-number", "has FLANNEL_MTU=144x, which is no number"),
        ("subnet-no-cidr", "has FLANNEL_SUBNET=10.244.1.1, which is no CIDR"),
    ],
)
def test_what_the_plugin_of_flannel_would_refuse_is_refused(name, what):
    found = subnet_env((FLANNEL / f"subnet-env/{name}.env").read_bytes())
    assert isinstance(found, Malformed)
    assert found.what.startswith(what)


def test_a_file_cut_anywhere_is_refused_unless_only_the_end_of_the_last_line_is_gone():
    whole = (FLANNEL / "vxlan/run/flannel/subnet.env").read_bytes()
    understood = [length for length in range(len(whole)) if isinstance(subnet_env(whole[:length]), SubnetEnv)]
    assert understood == [len(whole) - 1]


# --- net-conf.json


@pytest.mark.parametrize(
    ("name", "understood"),
    [
        ("vxlan-direct", NetConf(V4, "vxlan", 4789, direct=True)),
        ("host-gw", NetConf(V4, "host-gw")),
        ("ipip", NetConf(V4, "ipip")),
        ("wireguard", NetConf(V4, "wireguard", 51900)),
        ("udp", NetConf(nets("10.0.0.0/8"), "udp", 7890)),
        ("aws-vpc", NetConf(V4, "aws-vpc")),
        ("ipsec", NetConf(V4, "ipsec")),
        ("alloc", NetConf(V4, "alloc")),
        ("k3s-vpn-auth", NetConf(nets("10.42.0.0/16"), "extension", tailscale=True)),
        ("no-backend", NetConf(V4, "udp")),
        ("other-case", NetConf(V4, "vxlan")),
        ("unknown-backend", NetConf(V4, "carrier-pigeon")),
    ],
)
def test_each_configuration_is_understood(name, understood):
    found = net_conf((FLANNEL / f"net-conf/{name}.json").read_bytes())
    assert found == understood
    assert "placeholder" not in repr(found), "a pre-shared key is nobody's business"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("cut", "is not JSON: "),
        ("no-object", "is not a JSON object"),
        ("no-network", "has no Network that is a CIDR"),
        ("backend-is-text", "has a Backend that is no object"),
        ("type-is-a-list", "has a Backend whose Type is no text"),
        ("port-is-text", "has a Backend whose Type is no text, or whose Port is no number"),
    ],
)
def test_what_flanneld_would_refuse_is_refused(name, what):
    found = net_conf((FLANNEL / f"net-conf/{name}.json").read_bytes())
    assert isinstance(found, Malformed)
    assert found.what.startswith(what)


def test_a_family_that_is_off_has_no_network():
    found = net_conf((FLANNEL / "ipv6-only/etc/kube-flannel/net-conf.json").read_bytes())
    assert found.networks == nets("fd42:244::/48")
    assert net_conf((FLANNEL / "k3s" / flannel.K3S_NET_CONF[1:]).read_bytes()).networks == nets("10.42.0.0/16")


# --- leases and addresses


def test_a_lease_is_in_the_annotations_of_a_node():
    vxlan = {"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": "192.0.2.11", "backend-data": "{}"}
    assert lease({PREFIX + key: value for key, value in vxlan.items()}) == Lease("vxlan", "192.0.2.11")
    six = {"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ipv6": "2001:db8::1"}
    assert lease({PREFIX + key: value for key, value in six.items()}) == Lease("vxlan", "2001:db8::1")
    assert lease({PREFIX + "backend-type": "vxlan"}) is None
    assert lease({}) is None


def test_reserved_addresses_are_sorted_and_the_other_files_passed_over():
    names = ["10.244.1.10", "10.244.1.2", "fd42::2", "last_reserved_ip.0", "lock"]
    assert reserved(names) == tuple(map(ip_address, ("10.244.1.2", "10.244.1.10", "fd42::2")))


# --- backends


@pytest.mark.parametrize(
    ("name", "encrypted", "said"),
    [
        ("vxlan-direct", False, ["UDP 4789 between nodes was Flannel's", "DirectRouting"]),
        ("host-gw", False, ["without a tunnel pods had the LAN's whole MTU", "removed one by one"]),
        ("ipip", False, ["IP protocol 4 between nodes", "tunl0"]),
        ("wireguard", True, ["UDP 51900 between nodes"]),
        ("udp", False, ["UDP 7890 between nodes", "flannel0"]),
        ("no-backend", False, ["UDP 8285 between nodes"]),
        ("other-case", False, ["UDP 8472 between nodes"]),
        ("aws-vpc", False, ["the cloud's route table"]),
        ("ipsec", True, ["UDP 500 and 4500, ESP between nodes", "ip xfrm policy flush"]),
        ("alloc", False, ["something else", "past the mesh"]),
        ("k3s-vpn-auth", True, ["switch --vpn-auth off", "tailscale down"]),
        ("unknown-backend", False, []),
    ],
)
def test_what_differs_is_told_for_each_backend(name, encrypted, said):
    conf = net_conf((FLANNEL / f"net-conf/{name}.json").read_bytes())
    told = " | ".join([*backends.differences(conf, 1450), backends.of(conf).carries])
    assert ("were encrypted, and are" in told) is encrypted
    assert ("were readable on the wire" in told) is not encrypted
    assert "an MTU of 1450" in told
    assert [each for each in said if each not in told] == []


def test_an_unknown_backend_is_said_to_be_one():
    conf = net_conf((FLANNEL / "net-conf/unknown-backend.json").read_bytes())
    assert "carrier-pigeon, a backend that HeadCNI does not know" in backends.of(conf).carries
    assert [each for each in backends.differences(conf, 0) if "MTU" in each] == []
