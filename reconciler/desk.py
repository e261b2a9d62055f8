"""What all workers share: the records in memory, and how an intent is understood, answered and accounted for.

A worker decides when something is said; the desk knows how. It has no loop and no tasks, so that it can be tested,
and replaced in tests, without either.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cni.spec import Code, Refusal, Verb
from reconciler.answers import failure, success
from reconciler.ipam.pool import Network, PoolSpec
from reconciler.mailbox import Mailbox
from reconciler.netconf import NetConf, overruled, without_delegate_secrets
from reconciler.observe import Observer
from reconciler.ports import Clock
from reconciler.request import SINCE, Request, understand
from reconciler.settings import BY_KEY
from reconciler.steps import Adapters, Steps, context_of, remembered_context, says_no_for_ever
from reconciler.store import NoSpace, Store
from reconciler.wiring.plan import host_name
from statemachine.attachment import Attachment, Namespace, Pod, State
from statemachine.intent import Intent

log = logging.getLogger("headcni")

USUAL_SOCKET = Path(BY_KEY["tailscale.socket"].default)


class Desk:
    def __init__(
        self,
        adapters: Adapters,
        store: Store,
        mailbox: Mailbox,
        steps: Steps,
        boot_id: str,
        node_pools: Callable[[], tuple[PoolSpec, ...]],
        service_cidrs: Callable[[], tuple[Network, ...]] = tuple,
        headscale_url: str = "",
        tailscale_socket: Path = USUAL_SOCKET,
    ) -> None:
        self._out = adapters
        self._store = store
        self.steps = steps
        self._mailbox = mailbox
        self._boot_id = boot_id
        self._node_pools = node_pools
        self._service_cidrs = service_cidrs
        self._headscale_url = headscale_url
        self._tailscale_socket = tailscale_socket
        self.records: dict[str, Attachment] = {}
        self.dirty = True  # something that status.json shows has changed

    @property
    def clock(self) -> Clock:
        return self._out.clock

    @property
    def observer(self) -> Observer:
        return self._out.observer

    def warn(self, key: str, text: str) -> None:
        """Once for each key."""
        self._out.warn(key, text)

    # --- records

    def states(self) -> Counter[str]:
        return Counter(record.state.value for record in self.records.values())

    def keep(self, record: Attachment) -> NoSpace | None:
        """Into memory in any case, and onto the disk if it has room."""
        no_space = self._store.save(record)
        self.records[record.key] = record
        self.dirty = True
        self._note(no_space)
        return no_space

    def close(self, record: Attachment) -> None:
        """Into the history; on a full disk it leaves none."""
        self._note(self._store.close(replace(record, config=without_delegate_secrets(record.config))))
        self.records.pop(record.key, None)
        self.dirty = True
        log.info("closed key=%s pod=%s", record.key, record.pod)

    def forget(self, key: str) -> None:
        """As if it had never been: nothing was done for it yet."""
        self._store.forget(key)
        self.records.pop(key, None)

    def _note(self, no_space: NoSpace | None) -> None:
        if no_space is not None:
            self.warn("no space", f"{no_space.path} could not be written: {no_space.reason}")

    # --- intents

    def expired(self, intent: Intent, within: float = 0.0) -> bool:
        return intent.expired(self.clock.mono_ns() + int(within * 1e9), self._boot_id)

    def understand(self, intent: Intent) -> Request | Refusal:
        if not intent.config and intent.verb is Verb.DEL:
            return Request(intent, NetConf("", "1.0.0"), Pod(), State.ADVERTISED)  # an empty DEL: its name says all
        request = understand(intent, self._node_pools(), self._service_cidrs())
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
            return await self.steps.ask_delegate(Verb.CHECK, context_of(request))
        return None

    async def delete_unknown(self, request: Request) -> Refusal | None:
        """A DEL without a record: what its name alone can find is removed, and a delegate is told."""
        await self.delete_by_name(request.intent.key)
        if not request.conf.delegate:
            return None
        refusal = await self.steps.ask_delegate(Verb.DEL, context_of(request))
        return None if refusal is None or says_no_for_ever(refusal) else refusal

    async def delete_by_name(self, key: str) -> None:
        """Also of a pod whose record cannot be read: its addresses were kept for it until now."""
        await self.steps.unwire_leftover(host_name(key))
        self._out.ledger.release(unreadable(key))

    async def delegates_refusing(self) -> list[Refusal]:
        """STATUS of the IPAM plugins that networks in use delegate to, so that ours need not run them."""
        users = {
            record.network: record
            for record in self.records.values()
            if "cni_path" in record.config and record.cni_version >= SINCE[Verb.STATUS]
        }
        asked = [self.steps.ask_delegate(Verb.STATUS, remembered_context(record)) for record in users.values()]
        return [answer for answer in await asyncio.gather(*asked) if answer is not None]

    # --- answers

    def succeed(self, intent: Intent, version: str, record: Attachment | None = None) -> None:
        """With the result of an ADD, or, for the other verbs, with nothing."""
        seconds = self._answer(intent, 0, success(record, version) if record else b"")
        log.info("answered key=%s verb=%s took_ms=%.1f", intent.key, intent.verb, seconds * 1e3)

    def refuse(self, intent: Intent, version: str, refusal: Refusal) -> None:
        self._answer(intent, int(refusal.code), failure(refusal, version))
        log.warning("refused key=%s verb=%s code=%d why=%s", intent.key, intent.verb, refusal.code, refusal)

    def _answer(self, intent: Intent, code: int, content: bytes) -> float:
        seconds = max(0.0, (self.clock.mono_ns() - intent.name.made_ns) / 1e9)
        self._note(self._mailbox.answer(intent, code == 0, content))
        self.observer.answered(intent.verb.value, code, seconds)
        return seconds

    def discard(self, intent: Intent) -> None:
        log.warning("discarded key=%s verb=%s why=its deadline has passed", intent.key, intent.verb)
        self._mailbox.discard(intent)

    def note_retry(self, record: Attachment) -> None:
        problem = record.problem
        if problem is None:
            return
        self.observer.retry(problem.step)
        if problem.attempt & (problem.attempt - 1):
            return  # the 1st, 2nd, 4th, 8th…: an outage of a night must not fill the log, the record has each
        log.warning(
            "will retry key=%s step=%s attempt=%d code=%d why=%s",
            *(record.key, problem.step, problem.attempt, problem.code, problem.msg),
        )

    def _warn_about(self, conf: NetConf) -> None:
        for key in conf.unknown:
            self.warn(f"unknown {conf.name} {key}", f"network {conf.name}: unknown key {key}; it has no effect")
        for key, ours in overruled(conf, self._headscale_url, self._tailscale_socket):
            text = f"network {conf.name}: {key} has no effect, as the daemon has another: {ours}"
            self.warn(f"overruled {conf.name} {key}", text)
        if conf.network_policy:
            self.warn(
                "policy",
                "enable_network_policy is true, but this version does NOT enforce it; every pod is reachable",
            )


def unreadable(key: str) -> str:
    """Who holds the addresses of a pod that may exist, although its record cannot be read."""
    return f"unreadable:{key}"
