"""What other nodes have against a pod CIDR: told, withdrawn, and never a reason to take another one."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_network as net
from types import SimpleNamespace

import pytest

from reconciler.node.clash import MANY, Others
from reconciler.operate.log import Once
from reconciler.reporter import Reporter
from tests.pure.test_podcidr_keeper import ASKED, GUESS, Node

THEIRS = {net("10.244.2.0/24"): "worker-2", GUESS: "worker-3", net("fd00::/64"): "worker-4"}


@pytest.fixture
def node(tmp_path, caplog):
    caplog.set_level(logging.INFO, "headcni")
    return Node(tmp_path)


def against(node) -> list[tuple[int, str, list[str], str]]:
    found = [each for each in node.keeper.data()["findings"] if each["source"] == "api" and each["code"]]
    return [(each["code"], each["looked_at"], each["found"], each["cure"]) for each in found]


@pytest.mark.parametrize(
    ("flags", "cidr", "cure"),
    [
        ({}, GUESS, "set network.podCIDR.nodeLocal (--pod-cidr) on one of the two, or let kube-controller-manager"),
        ({"network.podCIDR.nodeLocal": "10.244.61.128/25"}, net("10.244.61.128/25"), "correct one of the two: flag --"),
    ],
)
def test_another_node_with_the_same_is_told_once_and_over_when_it_is_gone(node, caplog, flags, cidr, cure):
    chosen = node.start(**flags)
    before = list(node.once.said)
    for _ in range(2):
        node.keeper.learn(Others(4, dict(THEIRS)))
        what = f"this node's pod CIDR {cidr} overlaps 10.244.61.0/24 of node worker-3"
        (told,) = [each for each in node.once.said if each not in before]
        assert told.startswith(f"{what}; {cure}")
        ((code, looked_at, found, _),) = against(node)
        assert (code, looked_at, found) == (164, "Node worker-3", ["10.244.61.0/24"])
        assert told in node.keeper.data()["warnings"]
        assert caplog.text.count(what) == 1
    assert node.keeper.applied(node.configured) == chosen
    assert node.keeper.others.networks == THEIRS
    node.keeper.learn(Others(3, {net("10.244.2.0/24"): "worker-2"}))
    assert (node.once.said, against(node)) == (before, [])


def test_what_the_api_gives_instead_of_a_guess_ends_the_clash(node):
    node.start()
    node.keeper.learn(Others(4, dict(THEIRS)))
    assert against(node)
    assert node.keeper.settle(node.configured, {}, api=(ASKED,)).pod_cidrs == (ASKED,)
    assert (node.once.said, against(node)) == ([], [])


def test_a_choice_that_is_made_again_is_compared_as_well(node):
    node.start()
    node.keeper.learn(Others(4, {ASKED: "worker-2"}))
    assert not against(node)
    node.kubelet(f"podCIDR: {ASKED}")
    asyncio.run(node.keeper.judge_again(node.configured, {}, ()))
    assert [each[:2] for each in against(node)] == [(164, "Node worker-2")]


def test_of_a_cidr_that_all_others_have_not_all_are_named(node):
    node.start(**{"network.podCIDR.nodeLocal": "10.244.0.0/16"})
    node.keeper.learn(Others(200, {net(f"10.244.{number}.0/24"): f"worker-{number}" for number in range(200)}))
    assert len(against(node)) == MANY


@pytest.mark.parametrize(("nodes", "told"), [(0, False), (2, False), (3, True)])
def test_a_guess_of_a_base_that_is_too_small_for_the_cluster(node, nodes, told):
    node.kubelet("networking: {podSubnet: 10.99.0.0/23}")
    chosen = node.start()
    node.keeper.learn(Others(nodes))
    words = "has room for 2 nodes with a /24 each, and 3 are known; widen network.podCIDR.base"
    assert any(words in each for each in node.once.said) is told
    assert [each[:2] for each in against(node)] == [(161, "the list of Nodes")] * told
    asyncio.run(node.keeper.judge_again(node.configured, {}, ()))
    assert node.keeper.applied(node.configured) == chosen  # pods run with it
    assert any(words in each for each in node.once.said) is told


def test_who_does_not_guess_is_not_told_of_the_base(node):
    node.start(**{"network.podCIDR.nodeLocal": "10.99.0.0/24", "network.podCIDR.base": "10.99.0.0/23"})
    node.keeper.learn(Others(3))
    assert node.once.said == []


def test_the_lookout_knows_whose_they_are(node, monkeypatch):
    seen = []
    monkeypatch.setattr("reconciler.node.overlap.look", lambda ranges: seen.append(ranges.others) or ())
    config, quiet = node.start(), SimpleNamespace(problems=tuple)
    desk = SimpleNamespace(records={}, dirty=False)
    once = Once(logging.getLogger("headcni"))
    reporter = Reporter(config, node.store, desk, None, quiet, once, "", others=lambda: node.keeper.others.networks)
    node.keeper.learn(Others(4, dict(THEIRS)))
    asyncio.run(reporter.look_at_host())
    assert seen == [THEIRS]
