"""The approver: the one program of a cluster that holds Headscale's API key, so that nodes need none.

It looks, decides (`approve.py`), has done what is missing, and looks again: every two seconds while a node is still to
come or something failed to be approved, every ten at rest. When Headscale fails it waits longer each time, up to a
minute, and never in step with others. It keeps nothing: killed at any instant, the next one finds the same to do.

Everything done is logged once. A problem is logged when it begins and when it is over.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cni.spec import Refusal
from reconciler.mesh.approve import Approval, decide
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.members import Reading
from reconciler.mesh.model import ControlNode, Finding
from reconciler.operate.log import Once
from reconciler.settings import Network

BUSY, REST, LONGEST = 2.0, 10.0, 60.0  # seconds

log = logging.getLogger("headcni")


@dataclass(frozen=True, slots=True)
class Change:
    verb: str  # approved, revoked
    prefix: Network
    member: str
    node: str  # Headscale's id

    def __str__(self) -> str:
        return f"{self.verb} {self.prefix} for {self.member} (node {self.node})"


@dataclass(frozen=True, slots=True)
class Round:
    changes: tuple[Change, ...]
    problems: tuple[Finding, ...]
    busy: bool = True
    failed: bool = False  # Headscale did not answer


class Approver:
    def __init__(
        self,
        headscale: HeadscaleClient,
        members: Callable[[], Reading | Refusal],
        cluster: Sequence[Network],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._headscale = headscale
        self._members = members
        self._cluster = cluster
        self._sleep = sleep
        self._chance = chance
        self._once = Once(log)
        self._told: dict[str, str] = {}  # the problems of the last round

    async def run(self) -> None:
        """Until it is cancelled."""
        failures = 0
        while True:
            done = await self.round()
            self._tell(done)
            failures = failures + 1 if done.failed else 0
            await self._sleep(pause(done.busy, failures, self._chance()))

    async def round(self) -> Round:
        reading = self._members()
        if isinstance(reading, Refusal):
            return Round((), (Finding("members", reading),))
        stale = (Finding("members", reading.problem),) if reading.problem else ()
        nodes = await self._headscale.nodes()
        if isinstance(nodes, Refusal):
            return Round((), (*stale, Finding("headscale", nodes)), failed=True)
        decided = decide(self._cluster, reading.members, nodes)
        outcomes = await self._headscale.approve_many([each.wish for each in decided.todo])
        changes: list[Change] = []
        problems = [*stale, *decided.problems]
        for approval, outcome in zip(decided.todo, outcomes, strict=True):
            if isinstance(outcome, Refusal):
                problems.append(Finding(f"approve {approval.member.name}", outcome))
            else:
                changes += _changes(approval, outcome)
        busy = decided.waiting or any(isinstance(each, Refusal) for each in outcomes)
        return Round(tuple(changes), tuple(problems), busy)

    def _tell(self, done: Round) -> None:
        for change in done.changes:
            log.info("%s prefix=%s member=%s node=%s", change.verb, change.prefix, change.member, change.node)
        now = {f"{each.key} {each.trouble.code}": str(each.trouble) for each in done.problems}
        if done.failed:  # of what was wrong before nothing is known
            now = self._told | now
        for key, text in self._told.items():
            if key not in now and self._once.clear(key):
                log.info("over: %s", text)
        for key, text in now.items():
            self._once.warn(key, text)
        self._told = now


def pause(busy: bool, failures: int, chance: float) -> float:
    """`chance` between 0 and 1 spreads those who wait for the same Headscale."""
    if not failures:
        return BUSY if busy else REST
    longest: float = min(LONGEST, BUSY * 2.0 ** min(failures, 10))
    return longest * (0.5 + chance / 2)


def _changes(approval: Approval, node: ControlNode) -> list[Change]:
    approved = [("approved", prefix) for prefix in approval.approves & node.approved]
    revoked = [("revoked", prefix) for prefix in approval.revokes - node.approved]
    return [
        Change(verb, prefix, approval.member.name, node.id)
        for verb, prefix in (*sorted(approved, key=str), *sorted(revoked, key=str))
    ]
