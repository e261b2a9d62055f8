"""All attachments of this node: who works on which, and what concerns more than one of them.

One worker per attachment, made on demand, gone when idle; attachments proceed side by side and a stuck one delays
nobody. The engine is also the supervisor: a fault in a worker is logged here, once, with its cause, becomes a failure
of the step in progress, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from cni.spec import Code, Refusal, Verb
from reconciler.answers import failure
from reconciler.ipam.pool import PoolSpec
from reconciler.mailbox import Mailbox
from reconciler.netconf import NetConf
from reconciler.observe import Observer
from reconciler.ports import Clock
from reconciler.request import Request, understand
from reconciler.steps import Adapters, Context, Steps, remembered_context
from reconciler.store import Store
from reconciler.wiring.plan import host_name
from reconciler.worker import Worker
from statemachine.attachment import Attachment, Namespace, Pod, State
from statemachine.intent import Intent
from statemachine.machine import Delete, Event

log = logging.getLogger("headcni")

GC_PATIENCE = 20.0  # seconds; a GC that finds something stuck says so instead of waiting for it


class Engine:
    def __init__(
        self,
        adapters: Adapters,
        store: Store,
        mailbox: Mailbox,
        steps: Steps,
        boot_id: str,
        node_pools: Callable[[], tuple[PoolSpec, ...]],
    ) -> None:
        self._out = adapters
        self.store = store
        self.steps = steps
        self._mailbox = mailbox
        self._boot_id = boot_id
        self._node_pools = node_pools
        self.records: dict[str, Attachment] = {}
        self.dirty = True  # something that status.json shows has changed
        self._workers: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def clock(self) -> Clock:
        return self._out.clock

    @property
    def observer(self) -> Observer:
        return self._out.observer

    def states(self) -> Counter[str]:
        return Counter(record.state.value for record in self.records.values())

    # --- work comes in

    def submit(self, intents: Iterable[Intent]) -> None:
        for intent in intents:
            if self._stopping:
                return  # it stays on disk, for the next daemon
            if intent.verb in (Verb.ADD, Verb.DEL, Verb.CHECK):
                self._post(intent.key, intent)
            else:
                self._spawn(self._collect_garbage(intent), "gc")

    def busy(self, key: str) -> bool:
        return key in self._workers

    def unwire_orphan(self, link: str) -> None:
        self._spawn(self.steps.unwire_leftover(link), f"orphan {link}")

    def post(self, key: str, event: Event) -> None:
        if not self._stopping:
            self._post(key, event)

    def _post(self, key: str, what: Intent | Event) -> None:
        worker = self._workers.get(key)
        if worker is None:
            worker = self._workers[key] = Worker(self, key)
            worker.post(what)
            self._spawn(self._supervise(worker), key)
        else:
            worker.post(what)

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _supervise(self, worker: Worker) -> None:
        try:
            while True:
                try:
                    await worker.run()
                    return
                except Exception as fault:  # one of the two supervisors
                    log.exception("fault key=%s cause=%r", worker.key, fault)
                    self.observer.error("fault")
                    await worker.fault(fault)
        finally:
            self._workers.pop(worker.key, None)

    def working(self) -> bool:
        return len(self._tasks) > sum(worker.resting for worker in self._workers.values())

    def retrying(self) -> bool:
        return any(worker.resting for worker in self._workers.values())

    async def stop(self, patience: float) -> None:
        """No new work; what is in a system call is finished, the rest stays on disk as it is."""
        self._stopping = True
        for worker in self._workers.values():
            worker.hurry()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in self._tasks:
            task.cancel()

    @property
    def stopping(self) -> bool:
        return self._stopping

    # --- what workers ask

    def expired(self, intent: Intent) -> bool:
        return intent.expired(self.clock.mono_ns(), self._boot_id)

    def understand(self, intent: Intent) -> Request | Refusal:
        if not intent.config and intent.verb is Verb.DEL:
            return Request(intent, NetConf("", "1.0.0"), Pod(), State.ADVERTISED)  # an empty DEL: its name says all
        request = understand(intent, self._node_pools())
        if isinstance(request, Request):
            self._warn_about(request.conf)
        return request

    def namespace_of(self, request: Request) -> Namespace | Refusal | None:
        identity = self._out.wiring.identity(request.netns_path)
        if isinstance(identity, Refusal) and request.goal is State.ALLOCATED:
            return None  # an IPAM plugin does not enter it
        return identity

    def namespace_alive(self, record: Attachment) -> bool | None:
        """None: cannot be told from here, as where the runtime's directory is not mounted. Nothing dies of that."""
        if record.netns is None:
            return None
        now = self._out.wiring.identity(record.netns.path)
        if isinstance(now, Namespace):
            return (now.dev, now.ino) == (record.netns.dev, record.netns.ino)
        return False if now.code == Code.UNKNOWN_CONTAINER else None

    def new_record(self, request: Request, netns: Namespace | None) -> Attachment:
        now = self.clock.wall()
        config = request.conf.remembered
        if request.conf.delegate:
            config["cni_path"] = request.intent.env.get("CNI_PATH", "")
        return Attachment(
            container=request.intent.name.container,
            ifname=request.intent.name.ifname,
            goal=request.goal,
            network=request.conf.name,
            cni_version=request.conf.cni_version,
            boot_id=self._boot_id,
            created=now,
            since=now,
            pod=request.pod,
            netns=netns,
            config=config,
            traceparent=request.intent.env.get("TRACEPARENT", ""),
        )

    async def check(self, request: Request, record: Attachment) -> Refusal | None:
        differences = await self.steps.inspect(record)
        if differences:
            return Refusal(Code.ATTACHMENT_DIFFERS, f"{record.key} is not as recorded", "; ".join(differences))
        if request.conf.delegate:
            return await self.steps.ask_delegate(Verb.CHECK, Context(request.conf, request.intent.env))
        return None

    async def delegates_refusing(self) -> list[Refusal]:
        """STATUS of the IPAM plugins that networks in use delegate to, so that ours need not run them."""
        users = {record.network: record for record in self.records.values() if "cni_path" in record.config}
        asked = [self.steps.ask_delegate(Verb.STATUS, remembered_context(record)) for record in users.values()]
        return [answer for answer in await asyncio.gather(*asked) if answer is not None]

    async def delete_unknown(self, request: Request) -> None:
        """A DEL without a record: what its name alone can find is removed, and a delegate is told."""
        link = host_name(request.intent.key)
        if link in self._out.wiring.links():
            await self.steps.unwire_leftover(link)
        if request.conf.delegate:
            await self.steps.ask_delegate(Verb.DEL, Context(request.conf, request.intent.env))

    def reply(self, intent: Intent, ok: bool, content: bytes, refusal: Refusal | None) -> None:
        seconds = max(0.0, (self.clock.mono_ns() - intent.name.made_ns) / 1e9)
        no_space = self._mailbox.answer(intent, ok, content)
        if no_space is not None:
            self.warn("no space", f"{no_space.path} could not be written: {no_space.reason}")
        code = int(refusal.code) if refusal else 0
        self.observer.answered(intent.verb.value, code, seconds)
        if refusal is None:
            log.info("answered key=%s verb=%s took_ms=%.1f", intent.key, intent.verb, seconds * 1e3)
        else:
            log.warning("refused key=%s verb=%s code=%d why=%s", intent.key, intent.verb, code, refusal)

    def discard(self, intent: Intent) -> None:
        log.warning("discarded key=%s verb=%s why=its deadline has passed", intent.key, intent.verb)
        self._mailbox.discard(intent)

    def changed(self) -> None:
        self.dirty = True

    def closed(self, record: Attachment) -> None:
        self.dirty = True
        log.info("closed key=%s pod=%s", record.key, record.pod)

    def note_retry(self, record: Attachment) -> None:
        problem = record.problem
        if problem is None:
            return
        self.observer.retry(problem.step)
        log.warning(
            "will retry key=%s step=%s attempt=%d code=%d why=%s",
            *(record.key, problem.step, problem.attempt, problem.code, problem.msg),
        )

    def warn(self, key: str, text: str) -> None:
        self._out.warn(key, text)

    def _warn_about(self, conf: NetConf) -> None:
        for key in conf.unknown:
            self.warn(f"unknown {conf.name} {key}", f"network {conf.name}: unknown key {key}; it has no effect")
        if conf.network_policy:
            self.warn(
                "policy",
                "enable_network_policy is true, but this version does NOT enforce it; every pod is reachable",
            )

    # --- garbage

    async def _collect_garbage(self, intent: Intent) -> None:
        request = understand(intent, self._node_pools())
        if isinstance(request, Refusal):
            self.reply(intent, False, failure(request, "1.1.0"), request)
            return
        valid = request.conf.valid_attachments
        if valid is None:
            refusal = Refusal(
                Code.INVALID_CONFIGURATION, "cni.dev/valid-attachments: missing", "GC needs the list of what may stay"
            )
            self.reply(intent, False, failure(refusal, request.conf.cni_version), refusal)
            return
        doomed = [
            key for key, record in self.records.items() if record.network == request.conf.name and key not in valid
        ]
        for key in doomed:
            self.post(key, Delete("GC: the runtime does not know it any more"))
        stuck = await self._gone(doomed)
        outcome = _stuck(stuck)
        if outcome is None and request.conf.delegate:
            outcome = await self.steps.ask_delegate(Verb.GC, Context(request.conf, request.intent.env))
        content = failure(outcome, request.conf.cni_version) if outcome else b""
        self.reply(intent, outcome is None, content, outcome)

    async def _gone(self, keys: list[str]) -> list[str]:
        """A worker ends when its attachment is closed; one that waits for its next try is what GC must not wait for."""
        tasks = [task for task in self._tasks if task.get_name() in keys]
        if tasks:
            await asyncio.wait(tasks, timeout=GC_PATIENCE)
        return [key for key in keys if key in self.records]


def _stuck(keys: list[str]) -> Refusal | None:
    if not keys:
        return None
    return Refusal(
        Code.TRY_AGAIN_LATER,
        f"{len(keys)} attachments are still tearing down",
        "see `headcni pods`: " + ", ".join(keys[:5]),
    )
