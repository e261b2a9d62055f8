"""What one call asks for: the runtime's variables and the network configuration together."""

import json
from ipaddress import ip_address, ip_network

import pytest

from cni.spec import Code, Refusal, Verb
from fixtures.simulation import Node
from reconciler.ipam.pool import PoolSpec
from reconciler.request import SCANNED_BYTES, Request, asked_version, understand
from statemachine.attachment import Pod, State
from statemachine.intent import Intent, IntentName

V4, V6 = ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")
NODE = (PoolSpec(V4), PoolSpec(V6))
SERVICES = (ip_network("10.96.0.0/16"),)


def intent(verb="ADD", plugin="headcni", args="", **keys) -> Intent:
    body = {"cniVersion": "1.1.0", "name": "net", "type": "headcni", **keys}
    name = IntentName("1-c@eth0", 1, "c", "eth0", Verb(verb))
    return Intent(name, plugin, env={"CNI_ARGS": args}, config=json.dumps(body).encode())


def understood(*, node=NODE, services=SERVICES, **call) -> Request:
    request = understand(intent(**call), node, services)
    assert isinstance(request, Request), request
    return request


def refused(*, node=NODE, services=SERVICES, **call) -> Refusal:
    refusal = understand(intent(**call), node, services)
    assert isinstance(refusal, Refusal), refusal
    return refusal


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.stop()


# --- pools


def test_the_configured_subnet_is_the_only_pool():
    assert understood(ipam={"subnet": "10.9.0.0/24"}).conf.pools == (PoolSpec(ip_network("10.9.0.0/24")),)


def test_no_subnet_means_the_nodes_pod_cidrs_fitted_to_ipam():
    request = understood(ipam={"gateway": "10.244.1.9"})
    assert request.conf.pools == (PoolSpec(V4, ip_address("10.244.1.9")), PoolSpec(V6))


def test_what_does_not_fit_the_nodes_pod_cidrs_is_refused():
    assert "ipam.gateway: 10.9.9.9" in refused(ipam={"gateway": "10.9.9.9"}).details


def test_a_delegate_needs_no_pool():
    assert understood(node=(), ipam={"type": "host-local"}).conf.pools == ()


@pytest.mark.parametrize("verb", ["DEL", "CHECK", "GC"])
def test_only_an_add_needs_a_pool_and_sound_arguments(verb):
    assert understood(verb=verb, node=(), args="nonsense;IP=x").conf.pools == ()
    assert refused(node=()).code == Code.INVALID_CONFIGURATION


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ipam": {"subnet": "10.96.1.0/24"}}, ["ipam.subnet: 10.96.1.0/24", "network.serviceCIDR 10.96.0.0/16"]),
        ({"ipam": {"subnet": "10.0.0.0/8"}}, ["ipam.subnet: 10.0.0.0/8", "network.serviceCIDR 10.96.0.0/16"]),
        ({"service_cidr": "10.244.0.0/16"}, ["ipam.subnet: 10.244.1.0/24", "service_cidr 10.244.0.0/16"]),
    ],
)
def test_no_pool_may_overlap_the_services(keys, words):
    refusal = refused(**keys)
    assert refusal.code == Code.INVALID_CONFIGURATION
    assert [word for word in [*words, "choose"] if word not in str(refusal)] == [], refusal


def test_a_pod_is_deleted_although_its_subnet_overlaps_the_services_by_now():
    assert understood(verb="DEL", ipam={"subnet": "10.96.1.0/24"}).goal is State.ADVERTISED


# --- variables


def test_the_pod_and_the_goal():
    call = {"args": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u"}
    assert understood(**call).pod == Pod("default", "web", "u")
    assert understood(**call).goal is State.ADVERTISED
    assert understood(plugin="headcni-ipam").goal is State.ALLOCATED


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        ("IP=10.244.1.7", ["10.244.1.7"]),
        ("IP=10.244.1.7/24", ["10.244.1.7"]),
        ("IP=fd00:244:1::7", ["fd00:244:1::7"]),
        ("IgnoreUnknown=1;IP=10.244.1.7, fd00:244:1::7/64;K8S_POD_NAME=web", ["10.244.1.7", "fd00:244:1::7"]),
        ("", []),
    ],
)
def test_addresses_asked_for_by_cni_args(args, asked):
    assert understood(args=args).conf.asked == tuple(map(ip_address, asked))


def test_runtime_config_wins_over_cni_args():
    request = understood(args="IP=10.244.1.8", runtimeConfig={"ips": ["10.244.1.7"]})
    assert request.conf.asked == (ip_address("10.244.1.7"),)


@pytest.mark.parametrize("args", ["nonsense", "=x", "IP=", "IP=here", "IP=10.244.1.7,", "IP=fe80::1%eth0"])
def test_arguments_that_make_no_sense_are_named(args):
    refusal = refused(args=args)
    assert refusal.code == Code.INVALID_ENVIRONMENT
    assert "CNI_ARGS" in refusal.msg
    assert "write" in refusal.details


def test_an_address_of_each_family_reaches_the_pod(node):
    answer = node.add(
        env={"CNI_ARGS": "IP=fd00:244:1::7,10.244.1.7"}, ipam={"ranges": [[{"subnet": str(V4)}], [{"subnet": str(V6)}]]}
    )
    assert answer.addresses == ["10.244.1.7/32", "fd00:244:1::7/128"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("10.244.1.7,10.244.1.8", "second IPv4 address asked for, after 10.244.1.7"),
        ("10.9.9.9", "is outside 10.244.1.0/24"),
        ("fd00::7", "no IPv6 subnet"),
    ],
)
def test_an_address_that_cannot_be_given_is_refused_and_leaves_nothing(node, asked, words):
    answer = node.add(env={"CNI_ARGS": f"IP={asked}"})
    assert answer.code == Code.ADDRESS_REFUSED
    assert words in answer.body["details"]
    assert node.on_disk() == {}
    assert node.wrongs() == []


# --- versions


@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0")])
def test_a_verb_that_came_later_is_refused(verb, version):
    refusal = refused(verb=verb, cniVersion=version)
    assert refusal.code == Code.INCOMPATIBLE_VERSION
    assert version in refusal.msg


def test_headcni_ipam_does_not_delegate():
    assert 'ipam.type: "host-local"' in refused(plugin="headcni-ipam", ipam={"type": "host-local"}).msg


@pytest.mark.parametrize(
    ("config", "version"),
    [
        (b'{"cniVersion": "0.4.0", "mtu": 1}', "0.4.0"),
        (b'{"prevResult": {"cniVersion": "0.3.1"}, "cniVersion":"1.1.0"}', "1.1.0"),
        (b'{"cniVersion": "1.1.0", "name": ', "1.1.0"),
        (b'{"cniVersion": "9.9.9"}', "1.0.0"),
        (b'{"cniVersion": 1}', "1.0.0"),
        (b'{"name": "\xff"}', "1.0.0"),
        (b"", "1.0.0"),
        (b'{"a": "' + b"x" * SCANNED_BYTES + b'", "cniVersion": "1.1.0"}', "1.0.0"),
    ],
)
def test_the_version_of_an_answer_is_the_one_asked_for_where_that_can_be_told(config, version):
    assert asked_version(Intent(IntentName("s", 1, "c", "eth0", Verb.ADD), config=config)) == version
