"""A kubelet and a containerd, old and new, call the plugin for real pods, while the daemon is killed under them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from box import Box, eventually
from headcni import PORTMAP, HeadCni, conflist, kernel_state
from kubenode import KubeNode

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]

CONTAINERDS = {"containerd-1.6": "1.0.0", "containerd-2": "1.1.0"}
"""And the newest CNI version that its libcni speaks: with 1.1.0 it asks STATUS every few seconds."""


# The names differ from test to test: a kubelet lets ten seconds pass before a static pod's name is used again.


def twenty(prefix: str) -> list[str]:
    return [f"{prefix}{number}" for number in range(20)]


@dataclass(frozen=True)
class Node:
    kube: KubeNode
    headcni: HeadCni
    empty: str  # the kernel's state before the first pod

    def await_empty(self) -> None:
        eventually(lambda: not self.kube.sandboxes(), "the sandboxes to go", 60, self.kube.tail)
        self.headcni.await_nothing_left()
        assert kernel_state(self.kube.box) == self.empty


@pytest.fixture(scope="module", params=CONTAINERDS)
def running(request: pytest.FixtureRequest, installed: Path) -> Iterator[Node]:
    with Box() as box:
        headcni, kube = HeadCni(box, installed), KubeNode(box, request.param)
        headcni.configure(conflist(CONTAINERDS[request.param], PORTMAP))
        headcni.start()
        kube.start()
        yield Node(kube, headcni, kernel_state(box))


@pytest.fixture
def node(running: Node) -> Iterator[Node]:
    """Without pods, before and after."""
    yield running
    running.headcni.ensure_running()
    running.kube.delete_all()
    running.await_empty()


@pytest.fixture
def kube(node: Node) -> KubeNode:
    return node.kube


@pytest.fixture
def headcni(node: Node) -> HeadCni:
    return node.headcni


def test_pods_reach_each_other(kube: KubeNode, headcni: HeadCni) -> None:
    kube.create("fox", "owl")
    addresses = kube.await_running("fox", "owl")
    assert kube.ping("fox", addresses["owl"])
    assert kube.ping("owl", addresses["fox"])
    assert {record["pod"]["name"] for record in headcni.records()} == {"fox-box", "owl-box"}


def test_pods_do_not_notice_that_the_daemon_is_killed(kube: KubeNode, headcni: HeadCni) -> None:
    kube.create("elk", "ant")
    before = kube.await_running("elk", "ant")
    headcni.kill()
    assert kube.ping("elk", before["ant"])
    headcni.start()
    assert kube.ping("ant", before["elk"])
    assert kube.running() == before
    assert kube.restarts("elk") == 0


def test_a_pod_that_came_without_a_daemon_starts_with_the_next(kube: KubeNode, headcni: HeadCni) -> None:
    """With STATUS the kubelet may learn that there is none before it has the plugin called for the pod."""
    headcni.kill()
    kube.create("bee")
    eventually(lambda: headcni.intents() or kube.waits_for_network("bee"), "the pod to be held up", told=kube.tail)
    assert "bee" not in kube.running()
    headcni.start()
    kube.await_running("bee")


def test_a_pod_that_went_without_a_daemon_is_cleared_by_the_next(node: Node) -> None:
    node.kube.create("cat", "dog")
    node.kube.await_running("cat", "dog")
    node.headcni.kill()
    node.kube.delete("cat", "dog")
    eventually(lambda: not node.kube.sandboxes(), "the sandboxes to go", 60, node.kube.tail)
    assert len(node.headcni.records()) == 2
    node.headcni.start()
    node.await_empty()


def test_twenty_at_once(kube: KubeNode) -> None:
    pods = twenty("first")
    kube.create(*pods)
    addresses = kube.await_running(*pods)
    assert len(set(addresses.values())) == len(pods)
    assert all(kube.ping(pods[0], address) for address in addresses.values())


def test_twenty_at_once_while_the_daemon_is_killed_twice(kube: KubeNode, headcni: HeadCni) -> None:
    pods = twenty("second")
    kube.create(*pods)
    for number in (2, 8):
        eventually(lambda n=number: len(headcni.records()) >= n, f"{number} records", told=headcni.tail)
        headcni.kill()
        headcni.start()
    addresses = kube.await_running(*pods)
    assert len(set(addresses.values())) == len(pods)
    assert all(kube.ping(pods[0], address) for address in addresses.values())


def test_twenty_go_at_once_while_the_daemon_is_killed(node: Node) -> None:
    pods = twenty("third")
    node.kube.create(*pods)
    node.kube.await_running(*pods)
    node.kube.delete_all()
    eventually(lambda: len(node.headcni.records()) < len(pods), "the first to go", told=node.headcni.tail)
    node.headcni.kill()
    node.headcni.start()
    node.await_empty()
