"""Who works on which attachment, and what concerns more than one of them.

One worker per attachment, made on demand, gone when idle; attachments proceed side by side and a stuck one delays
nobody. The engine is also the supervisor: a fault in a worker is logged here, once, with its cause, becomes a failure
of the step in progress, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable

from cni.spec import Code, Refusal, Verb
from reconciler.desk import Desk
from reconciler.request import asked_version
from reconciler.steps import context_of
from reconciler.worker import Worker
from statemachine.intent import Intent
from statemachine.machine import Delete, Event

log = logging.getLogger("headcni")

GC_PATIENCE = 20.0  # seconds; a GC that finds something stuck says so instead of waiting for it


class Engine:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._workers: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False
        self.runtime_lists: dict[str, tuple[float, frozenset[str]]] = {}  # by network: when, and what was valid

    # --- work comes in

    def submit(self, intents: Iterable[Intent]) -> None:
        for intent in intents:
            if self.stopping:
                return  # it stays on disk, for the next daemon
            if intent.verb in (Verb.ADD, Verb.DEL, Verb.CHECK):
                self._post(intent.key, intent)
            else:
                self._spawn(self._guarded(self._collect_garbage(intent), "gc", intent), "gc")

    def post(self, key: str, event: Event) -> None:
        if not self.stopping:
            self._post(key, event)

    def unwire_orphan(self, link: str) -> None:
        name = f"orphan {link}"
        self._spawn(self._guarded(self._desk.steps.unwire_leftover(link), name), name)

    def _post(self, key: str, what: Intent | Event) -> None:
        worker = self._workers.get(key)
        if worker is None:
            worker = self._workers[key] = Worker(self._desk, key)
            self._spawn(self._supervise(worker), key)
        worker.post(what)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- supervision

    async def _supervise(self, worker: Worker) -> None:
        pending: Exception | None = None
        try:
            while True:
                try:
                    if pending is not None:
                        await worker.fault(pending)
                    pending = None
                    await worker.run()
                    return
                except Exception as fault:  # noqa: BLE001  # one of the two supervisors
                    self._log_fault(worker.key, fault)
                    if pending is not None:
                        worker.abandon(fault)  # not even the fault could be recorded; the audit comes back to it
                        return
                    pending = fault
        finally:
            self._workers.pop(worker.key, None)

    async def _guarded(self, work: Coroutine[None, None, None], name: str, intent: Intent | None = None) -> None:
        try:
            await work
        except Exception as fault:  # noqa: BLE001  # the same supervisor, for what is no worker
            self._log_fault(name, fault)
            if intent is not None:
                refusal = Refusal(Code.INTERNAL_FAULT, "fault in the daemon", f"{type(fault).__name__}: {fault}")
                self._desk.refuse(intent, asked_version(intent), refusal)

    def _log_fault(self, key: str, fault: Exception) -> None:
        log.exception("fault key=%s cause=%r", key, fault)
        self._desk.observer.error("fault")

    def working_on(self, key: str) -> bool:
        return key in self._workers and not self._workers[key].resting

    def retrying(self, key: str) -> bool:
        """Its worker waits for the next try of a failed step."""
        return key in self._workers and self._workers[key].resting

    def quiet(self) -> bool:
        """Nothing is being done; some may wait for their next try."""
        return len(self._tasks) <= sum(worker.resting for worker in self._workers.values())

    async def stop(self, patience: float) -> None:
        """No new work; what is in a system call is finished, the rest stays on disk as it is."""
        self.stopping = True
        for worker in self._workers.values():
            worker.hurry()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in self._tasks:
            task.cancel()

    # --- garbage

    async def _collect_garbage(self, intent: Intent) -> None:
        if self._desk.expired(intent):
            self._desk.discard(intent)
            return
        request = self._desk.understand(intent)
        if isinstance(request, Refusal):
            self._desk.refuse(intent, asked_version(intent), request)
            return
        conf = request.conf
        valid = conf.valid_attachments or frozenset()  # libcni leaves an empty list out
        self.runtime_lists[conf.name] = (intent.wall_ns / 1e9, valid)
        records = self._desk.records.values()
        doomed = [each.key for each in records if each.network == conf.name and each.key not in valid]
        for key in doomed:
            self.post(key, Delete("GC: the runtime does not know it any more"))
        outcome: Refusal | None = _stuck(await self._gone(set(doomed)))
        if conf.delegate:
            outcome = await self._desk.steps.ask_delegate(Verb.GC, context_of(request)) or outcome
        if outcome is None:
            self._desk.succeed(intent, conf.cni_version)
        else:
            self._desk.refuse(intent, conf.cni_version, outcome)

    async def _gone(self, keys: set[str]) -> list[str]:
        """A worker ends when its attachment is closed; one that waits for its next try is what GC must not wait for."""
        tasks = [task for task in self._tasks if task.get_name() in keys]
        if tasks:
            await asyncio.wait(tasks, timeout=GC_PATIENCE)
        return [key for key in keys if key in self._desk.records]


def _stuck(keys: list[str]) -> Refusal | None:
    if not keys:
        return None
    return Refusal(
        Code.TRY_AGAIN_LATER,
        f"{len(keys)} attachments are still tearing down",
        "see `headcni pods`: " + ", ".join(keys[:5]),
    )
