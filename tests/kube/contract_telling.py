"""What HeadCNI tells Kubernetes, as an API server takes it: on the fake, on the stand-in, and on a real kube-apiserver.

Each check is a coroutine over a `World`, with objects of its own, so that the order does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Protocol

from cni.spec import Refusal
from reconciler.kube import objects
from reconciler.kube.codes import Trouble
from reconciler.kube.events import Limiter, Notice, body_of, of_node, path_of
from reconciler.kube.lease import Standing, given_back, lease_from, written
from reconciler.kube.node import Aim, Truth, wishes
from reconciler.kube.node import path_of as node_path
from reconciler.kube.ports import Api, Patch
from reconciler.kube.rbac import LEASE, Role, check
from reconciler.kube.teller import Pauses, Teller

OURS = {"key": "headcni.io/not-ready", "effect": "NoSchedule"}
OTHER = {"key": "example.com/dedicated", "value": "gpu", "effect": "NoExecute"}
CIDR = "10.244.7.0/24"
TRUTH = Truth(pod_cidrs=(ip_network(CIDR),), mesh="in force", version="0.1.0", node_key="nodekey:" + "ab" * 32)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


class World(Protocol):
    daemon: Api  # with exactly the rights of `Role.DAEMON`
    approver: Api  # with exactly those of `Role.APPROVER`, its Lease in the namespace default

    async def add_node(self, name: str, spec: Mapping[str, Any]) -> None: ...

    async def taint(self, name: str, taints: list[dict[str, str]]) -> None:
        """As an administrator."""


class Clock:
    def wall(self) -> float:
        return 1767225600.0

    def mono_ns(self) -> int:
        return 0


async def seen(world: World, name: str) -> objects.Node:
    raw = await world.daemon.get(node_path(name))
    assert not isinstance(raw, Refusal), raw
    found = objects.node(raw)
    assert found is not None
    return found


def teller() -> Teller:
    return Teller(Clock(), Pauses())


async def everything_is_told_and_then_there_is_nothing_to_tell(world: World) -> None:
    await world.add_node("telling", {"podCIDR": CIDR, "podCIDRs": [CIDR], "taints": [OTHER, OURS]})
    told = await teller().tell(world.daemon, await seen(world, "telling"), TRUTH)
    assert [change.aim for change in told.done] == list(Aim)
    node = await seen(world, "telling")
    assert node == told.node
    assert OTHER in node.taints  # among those of the server itself
    assert OURS not in node.taints
    assert node.conditions["NetworkUnavailable"].status == "False"
    assert wishes(node, TRUTH, Clock().wall() + 1) == []
    told = await teller().tell(world.daemon, node, replace(TRUTH, not_ready="broken", node_key=""))
    assert [change.aim for change in told.done] == [Aim.ANNOTATIONS, Aim.CONDITION]
    node = await seen(world, "telling")
    assert node.conditions["NetworkUnavailable"].status == "True"
    assert "headcni.io/tailnet-node-key" not in node.annotations


async def a_taint_that_somebody_put_first_meanwhile_stays(world: World) -> None:
    await world.add_node("tainted", {"taints": [OURS]})
    stale = await seen(world, "tainted")
    await world.taint("tainted", [OTHER, OURS])
    sender = teller()
    told = await sender.tell(world.daemon, stale, TRUTH)
    assert Aim.TAINT in [change.aim for change in told.done]
    assert (await seen(world, "tainted")).taints == (OTHER,)
    assert sender.troubles == {}


async def conditions_of_others_stay(world: World) -> None:
    await world.add_node("conditions", {})
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Test"}]}}
    await world.daemon.patch(node_path("conditions") + "/status", ready, Patch.STRATEGIC)
    await teller().tell(world.daemon, await seen(world, "conditions"), TRUTH)
    raw = await world.daemon.get(node_path("conditions"))
    assert {each["type"] for each in raw["status"]["conditions"]} == {"Ready", "NetworkUnavailable"}


async def an_event_is_taken_once(world: World) -> None:
    await world.add_node("eventful", {})
    node = await seen(world, "eventful")
    for subject in (of_node(node), replace(of_node(node), kind="Pod", namespace="default", name="web-0")):
        notice = Notice(subject, "HeadCNIIsNotReady", "cause", "pods cannot be served")
        assert Limiter().due(notice, 0.0)
        body = body_of(notice, "eventful", Clock().wall())
        made = await world.daemon.create(path_of(notice), body)
        assert not isinstance(made, Refusal), made
        assert made["metadata"]["name"] == body["metadata"]["name"]
        again = await world.daemon.create(path_of(notice), body)
        assert isinstance(again, Refusal)
        assert again.code == Trouble.API_ANSWER


async def a_lease_is_made_kept_given_back_and_taken(world: World) -> None:
    path = f"{LEASES}/{LEASE}"
    api, wall = world.approver, Clock().wall()
    assert isinstance(await api.get(path), Refusal)
    made = await api.create(LEASES, written(Standing("a"), LEASE, wall))
    assert not isinstance(made, Refusal), made
    assert isinstance(await api.create(LEASES, written(Standing("b"), LEASE, wall)), Refusal)
    first = Standing("a", lease_from(made))
    kept = await api.replace(path, written(first, LEASE, wall + 2))
    assert lease_from(kept).holder == "a"
    assert lease_from(kept).version != lease_from(made).version
    late = await api.replace(path, written(first, LEASE, wall + 4))  # of the version before
    assert isinstance(late, Refusal)
    assert late.code == Trouble.API_ANSWER
    free = await api.replace(path, given_back(lease_from(kept), LEASE, wall + 6))
    assert not isinstance(free, Refusal), free
    taken = await api.replace(path, written(Standing("b", lease_from(free)), LEASE, wall + 8))
    assert (lease_from(taken).holder, lease_from(taken).transitions) == ("b", 1)


async def what_is_granted_is_what_is_asked_for(world: World) -> None:
    await world.add_node("asking", {})
    assert await check(world.daemon, Role.DAEMON, "asking") == []
    assert await check(world.approver, Role.APPROVER, namespace="default") == []


CHECKS = (
    everything_is_told_and_then_there_is_nothing_to_tell,
    a_taint_that_somebody_put_first_meanwhile_stays,
    conditions_of_others_stay,
    an_event_is_taken_once,
    a_lease_is_made_kept_given_back_and_taken,
    what_is_granted_is_what_is_asked_for,
)
