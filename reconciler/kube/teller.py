"""Tells Kubernetes what `node.wishes` wants told, and tries again what was refused.

A refusal may mean that the Node is not as it was believed to be; then it is read afresh and asked again, a few times.
What goes on being refused is tried again after a pause: the condition within seconds, for the node's state should be
right soon after the API allows it; the rest ever more seldom (`patience.py`). As soon as something goes through that
did not before, everything is tried at once; while the server does not want to be asked, nothing is. As long as the
condition is not told, neither is what comes after it.

What was just written is not written again for a moment, be it that somebody turned it back, or that it changed: two who
disagree must not do so a thousand times a minute, and neither must a node that does not know its own mind. That it
fails is told at once. That it serves pods again, only when it has held for a moment, for pods come with it; the first
time it is told without delay, or each restart would cost one.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from cni.spec import Refusal
from reconciler.kube import objects
from reconciler.kube.node import STILL, TAINT, Aim, Change, Truth, path_of, why_not, wishes
from reconciler.kube.objects import NETWORK_UNAVAILABLE, Node
from reconciler.kube.patience import SOON, Rest, retry_after
from reconciler.kube.ports import Api, HttpRefusal
from reconciler.ports import Clock

ROUNDS = 3
LONGEST_PAUSE = {Aim.CONDITION: SOON, Aim.ANNOTATIONS: 60.0, Aim.TAINT: 60.0}  # seconds
REPEAT = 3.0
CALM = 3.0  # without a failure; so long that a Node is still right within five seconds
STALE = (404, 409, 422)  # what an API server answers when the Node is another one than was believed
NODE_RESTRICTION = "is not allowed to modify taints"  # its words

log = logging.getLogger("headcni")


class Pauses:
    """`now`: seconds of a clock that never jumps."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._rests = {aim: Rest(chance, longest) for aim, longest in LONGEST_PAUSE.items()}
        self._not_before: dict[Aim, float] = {}
        self._said: dict[Aim, str] = {}
        self._unwanted_until = float("-inf")  # by the server

    def over(self, change: Change, now: float) -> bool:
        if now < self._unwanted_until:
            return False
        news = change.turns and not self._rests[change.aim].failures and change.says != self._said.get(change.aim)
        return news or now >= self._not_before.get(change.aim, float("-inf"))

    def refused(self, change: Change, refusal: Refusal, now: float) -> None:
        self._not_before[change.aim] = now + self._rests[change.aim].after(refusal)
        if retry_after(refusal):
            self._unwanted_until = self._not_before[change.aim]

    def done(self, change: Change, now: float) -> None:
        if self._rests[change.aim].failures:
            self._not_before.clear()
            for rest in self._rests.values():
                rest.over()
        self._not_before[change.aim] = now + REPEAT
        self._said[change.aim] = change.says


@dataclass(frozen=True, slots=True)
class Told:
    node: Node  # as it is now, as far as known
    done: tuple[Change, ...] = ()


class Teller:
    def __init__(self, clock: Clock, pauses: Pauses) -> None:
        self._clock = clock
        self._pauses = pauses
        self._has_served, self._failed_at, self._holds = False, float("-inf"), True
        self.troubles: dict[Aim, Refusal] = {}

    async def tell(self, api: Api, node: Node, truth: Truth) -> Told:
        done: list[Change] = []
        for rounds_left in reversed(range(ROUNDS)):
            fresh: Node | None = None
            for change in self._wished(node, truth):
                answer = await api.patch(change.path, change.body, change.kind) if self._due(change) else None
                if isinstance(answer, HttpRefusal) and answer.status in STALE and rounds_left:
                    fresh = await _read(api, node)
                    if fresh is not None:
                        node = fresh
                        break
                if isinstance(answer, Refusal):
                    self._note(change, _explained(change, answer, node))
                elif answer is not None:
                    self._went_through(change)
                    done.append(change)
                    node = objects.node(answer) or node
                    continue
                if change.aim is Aim.CONDITION and change.says != STILL:
                    break
            if fresh is None:
                break
        self._has_served |= _is_up(node) and not why_not(node, truth)
        return Told(node, tuple(done))

    def _wished(self, node: Node, truth: Truth) -> list[Change]:
        fails = bool(why_not(node, truth))
        if fails and self._has_served:
            self._failed_at = self._now()
        self._holds = fails or self._now() - self._failed_at >= CALM
        wished = wishes(node, truth, self._clock.wall())
        for aim in self.troubles.keys() - {change.aim for change in wished}:
            del self.troubles[aim]
        return wished

    def _due(self, change: Change) -> bool:
        return (self._holds or change.aim is not Aim.CONDITION) and self._pauses.over(change, self._now())

    def _went_through(self, change: Change) -> None:
        self._pauses.done(change, self._now())
        if self.troubles.pop(change.aim, None) is not None:
            log.info("kube: over: %s is told", change.aim)
        log.log(logging.DEBUG if change.says == STILL else logging.INFO, "kube: told: %s", change.says)

    def _note(self, change: Change, refusal: Refusal) -> None:
        self._pauses.refused(change, refusal, self._now())
        if self.troubles.get(change.aim) != refusal:
            log.warning("kube: code=%d not told (%s): %s", refusal.code, change.aim, refusal)
        self.troubles[change.aim] = refusal

    def _now(self) -> float:
        return self._clock.mono_ns() / 1e9


def _is_up(node: Node) -> bool:
    told = node.conditions.get(NETWORK_UNAVAILABLE)
    return told is not None and told.status == "False"


async def _read(api: Api, node: Node) -> Node | None:
    fresh = await api.get(path_of(node.name))
    return None if isinstance(fresh, Refusal) else objects.node(fresh)


def _explained(change: Change, refusal: Refusal, node: Node) -> Refusal:
    if change.aim is not Aim.TAINT or NODE_RESTRICTION not in refusal.msg:
        return refusal
    cure = (
        "a kubelet's credentials may never do that (NodeRestriction): give the daemon an account of its own; "
        f"until then: kubectl taint node {node.name} {TAINT}-"
    )
    return replace(refusal, details=cure)
