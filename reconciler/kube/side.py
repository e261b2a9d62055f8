"""What the daemon has of Kubernetes: it reads its Node and its pods, and tells what is true of them.

The daemon starts it and asks it; nothing in here can stop or delay a pod. Whatever waits for the API waits in a task of
its own. What was learned stays known while the API is away, only nothing is concluded from what is missing in it.

The status is looked at each second rather than listened to, so nothing else of the daemon need know that Kubernetes
exists; and what is told follows from the status alone, so that after any outage it catches up by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.kube import events, garbage, objects, others
from reconciler.kube.assemble import make_finder
from reconciler.kube.enrich import completed
from reconciler.kube.events import Notice, of_node
from reconciler.kube.finder import Reaching
from reconciler.kube.follow import Finder, follow
from reconciler.kube.herald import Herald
from reconciler.kube.lasting import Lasting
from reconciler.kube.node import NOT_READY, STILL, UP, Aim, Truth, why_not
from reconciler.kube.ports import Api, Seen
from reconciler.kube.summary import endpoint_of, summary_of, trouble_of
from reconciler.kube.teller import Pauses, Teller, Told
from reconciler.kube.truth import kept_out, truth_of
from reconciler.kube.view import NOT_READ, View
from reconciler.node.clash import Others
from reconciler.operate.status import Status
from reconciler.ports import Clock
from reconciler.settings import Network
from statemachine.attachment import Attachment
from statemachine.machine import Delete, Event

LOOK = 1.0  # seconds
SWEEP = 10.0
QUEUED = 20
KEPT_OUT = "kept out of the tailnet"  # by whatever a person must mend, one thing after the other

log = logging.getLogger("headcni")


@dataclass(frozen=True, slots=True)
class Needs:
    """Of the daemon."""

    status: Callable[[], Status | None]
    records: Callable[[], Mapping[str, Attachment]]
    idle: Callable[[str], bool]  # no task works on this record
    namespace_alive: Callable[[Attachment], bool | None]
    runtime_lists: Callable[[], Mapping[str, garbage.RuntimeList]]  # by network
    post: Callable[[str, Event], None]
    keep: Callable[[Attachment], object]
    changed: Callable[[], None]  # what `summary` says is not so any more
    warn: Callable[[str, str], None]  # once for each key
    given: Callable[[tuple[Network, ...]], None] = lambda cidrs: None  # the Node's pod CIDRs, at each change of them
    settled: Callable[[], bool] = lambda: True  # the daemon goes by those, and the status says so
    others: Callable[[Others], None] = lambda found: None  # what other nodes have, as far as it is asked for


class KubeSide:
    def __init__(self, name: str, clock: Clock, needs: Needs) -> None:
        self._name = name
        self._clock = clock
        self._needs = needs
        self._view = View(name)
        self._teller = Teller(clock, Pauses())
        self._herald = Herald(clock, name, needs.warn)
        self._search = others.Search(name, clock)
        self._lasting = Lasting()  # troubles of the mesh
        self._queue: list[Notice] = []  # what happened once; the rest of what is worth an event lasts
        self._suspected: dict[str, garbage.Suspicion] = {}
        self._seen_records: dict[tuple[str, float], float] = {}  # by key and creation
        self._seen_lists: dict[tuple[str, float], float] = {}  # by network and time
        self._reaching: Reaching | None = None
        self._given: tuple[Network, ...] = ()
        self._trouble: Refusal | None = None  # as it was logged
        self._summary: Mapping[str, Any] = {}
        self._since = clock.wall()
        self._publish()

    def summary(self) -> Mapping[str, Any]:
        """For `status.json`."""
        return self._summary

    def say(self, reason: str, cause: str, message: str, warning: bool = True) -> None:
        """As an event about this node, what somebody must see who asks Kubernetes."""
        about = events.Subject("Node", "", self._name, "")
        self._queue = [*self._queue, Notice(about, reason, cause, message, warning)][-QUEUED:]

    async def run(self, config: Callable[[], Config]) -> None:
        """For ever; a fault goes up."""
        finder = make_finder(config, self._name, self.reached)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.attend(finder))  # first: what it begins with is told by the finder
            tasks.create_task(finder.run())

    async def attend(self, finder: Finder) -> None:
        """What was seen before a fault is known, but counts as old until it is read again."""
        self._reaching = None
        self._lasting = Lasting()
        self._saw_node(NOT_READ)
        self._saw_pods(NOT_READ)
        own_node = {"fieldSelector": f"metadata.name={self._name}"}
        own_pods = {"fieldSelector": f"spec.nodeName={self._name}"}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow(finder, "/api/v1/nodes", own_node, objects.node, self._saw_node))
            tasks.create_task(follow(finder, "/api/v1/pods", own_pods, objects.pod, self._saw_pods))
            tasks.create_task(self._looks())
            tasks.create_task(self._turns(finder))
            tasks.create_task(self._sweeps())
            tasks.create_task(self._searches(finder))

    # --- reading

    def reached(self, reaching: Reaching) -> None:
        """There is a way to an API server, or there is none any more."""
        self._reaching = reaching
        self._publish()

    def _saw_node(self, seen: Seen | Refusal) -> None:
        self._view.take_node(seen)
        self._publish()
        given = self._view.node.pod_cidrs if self._view.node else ()
        if given and given != self._given:
            self._given = given
            self._needs.given(given)

    def _saw_pods(self, seen: Seen | Refusal) -> None:
        self._view.take_pods(seen)
        self._publish()

    async def _searches(self, finder: Finder) -> None:
        while True:
            await asyncio.sleep(LOOK)
            known = self._search.outcome.others
            await self._search.turn(self._reaching, self._view.node, self._needs.status(), finder.api)
            if self._search.outcome.others != known:
                self._needs.others(self._search.outcome.others)
            self._publish()

    # --- telling

    async def _looks(self) -> None:
        """Beside the turns, which may wait for the API: what lasts meanwhile, lasts."""
        while True:
            status = self._needs.status()
            mesh = status.mesh if status else {}
            there = (*events.troubles_of(mesh), *([KEPT_OUT] if kept_out(mesh) else []))
            self._lasting = self._lasting.seen(there, self._now())
            await asyncio.sleep(LOOK)

    def _lasts(self, what: str) -> bool:
        return self._lasting.long(what, self._now())

    def _now(self) -> float:
        return self._clock.mono_ns() / 1e9

    async def _turns(self, finder: Finder) -> None:
        while True:
            await self._turn(await finder.api())
            self._publish()
            await asyncio.sleep(LOOK)

    async def _turn(self, api: Api) -> None:
        status, node = self._needs.status(), self._view.node
        if status is None or node is None or not self._needs.settled():
            return
        truth = truth_of(status, lasts=self._lasts(KEPT_OUT))
        told = await self._teller.tell(api, node, truth)
        if self._view.node is node:  # else the watch knows better
            self._view.node = told.node
        await self._herald.tell(api, self._notices(told, truth, status))
        self._queue = [notice for notice in self._queue if self._herald.due(replace(notice, subject=of_node(node)))]

    def _notices(self, told: Told, truth: Truth, status: Status) -> Iterator[Notice]:
        about = of_node(told.node)
        for queued in self._queue:
            yield replace(queued, subject=about)
        if truth.not_ready:
            why = "; ".join(f"{each.what} ({each.cure})" for each in status.not_ready)
            yield Notice(about, NOT_READY, truth.not_ready, f"pods cannot be served: {why}")
        elif any(change.aim is Aim.CONDITION and change.says != STILL for change in told.done):
            if not why_not(told.node, truth):
                yield Notice(about, UP, "", "HeadCNI serves pods on this node", warning=False)
        yield from others.of_clashes(told.node, status.pod_cidr_source)
        yield from events.of_mesh(told.node, status.mesh, self._lasts)
        on_node = [trouble["code"] for trouble in status.mesh.get("missing", {}).values()]
        yield from events.of_records(self._needs.records().values(), self._view.known_pods, on_node)

    # --- records

    async def _sweeps(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self.sweep()

    def sweep(self) -> None:
        """Records get the names of their pods; those of pods that are gone are collected."""
        records = self._needs.records()
        for record in list(records.values()):
            self._complete(record)
        alive = self._view.alive  # most are, and need no closer look
        now, lists = self._now(), self._needs.runtime_lists()
        created = ((key, record.created) for key, record in records.items())
        self._seen_records = garbage.sighted(self._seen_records, created, now)
        self._seen_lists = garbage.sighted(self._seen_lists, ((name, last.at) for name, last in lists.items()), now)
        signs = {key: self._signs(record, lists) for key, record in records.items() if record.pod.uid not in alive}
        doomed, self._suspected = garbage.collectable(records, signs, self._suspected, now)
        for each in doomed:
            if not self._needs.idle(each.key):
                continue
            log.warning("kube: key=%s pod=%s: %s", each.key, records[each.key].pod, each.cause)
            self._needs.post(each.key, Delete(each.cause))

    def _complete(self, record: Attachment) -> None:
        pod = completed(record, self._view.pods or ())
        if pod is not None and self._needs.idle(record.key):
            log.info("kube: key=%s is pod=%s uid=%s", record.key, pod, pod.uid)
            self._needs.keep(replace(record, pod=pod))

    def _signs(self, record: Attachment, lists: Mapping[str, garbage.RuntimeList]) -> garbage.Signs:
        last, seen = lists.get(record.network), self._seen_records[record.key, record.created]
        seen_before = last is not None and seen < self._seen_lists[record.network, last.at]
        in_order = trouble_of(self._reaching, self._view) is None  # by a wrong name of the node, no pod is on it
        return garbage.Signs(
            namespace=self._needs.namespace_alive(record),
            runtime=garbage.runtime_sign(record, last, self._clock.wall(), seen_before),
            api=garbage.api_sign(record, self._view.pods if in_order else None),
        )

    # --- for the status

    def _publish(self) -> None:
        trouble = trouble_of(self._reaching, self._view)
        if (trouble is None) != (self._trouble is None):
            self._since = self._clock.wall()
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble is None:
                endpoint = endpoint_of(self._reaching)
                log.info("kube: watching Node %s and its pods through %s", self._name, endpoint)
            elif trouble is not NOT_READ:
                log.warning("kube: code=%d %s", trouble.code, trouble)
        not_told = self._teller.troubles.values()
        fresh = summary_of(self._name, self._reaching, self._view, self._since, not_told, self._search.outcome)
        if fresh != self._summary:
            self._summary = fresh
            self._needs.changed()
