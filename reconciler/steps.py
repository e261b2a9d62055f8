"""Carrying out the steps of the machine: each one an idempotent effect through the adapters, answered by an event.

Order matters in two places, and is why they are here and not spread out. *Wire*: isolation first, so that no packet
ever meets an interface without its policy. *Tear down*: withdraw, unwire, lift, release, so that an address is free
only when nothing in the kernel answers to it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from typing import Any

import orjson

from cni.result import Result
from cni.spec import Code, Refusal, Verb
from reconciler.addressing import from_delegate, from_pools
from reconciler.ipam.delegate import NotInstalled, UnknownVerb
from reconciler.ipam.ledger import Ledger
from reconciler.ipam.pool import Network
from reconciler.netconf import NetConf, parse
from reconciler.observe import Observer
from reconciler.ports import Advertiser, Clock, Delegate, Isolation, Wired, Wiring
from reconciler.request import Request
from reconciler.unwirer import Unwirer
from reconciler.wiring.plan import LinkPlan, plan_link
from statemachine.attachment import Attachment, Link, Namespace, State
from statemachine.machine import Done, Failed, Step

DELEGATE_SECONDS = 25.0
ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Adapters:
    clock: Clock
    ledger: Ledger
    wiring: Wiring
    isolation: Isolation
    advertiser: Advertiser
    delegate: Delegate
    observer: Observer
    threads: Executor | None  # None: asyncio's own
    ensure_pod_cidrs: Callable[[Iterable[Network]], object]
    warn: Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Context:
    """What a step may need beyond the record: the caller's configuration and environment, while there is a caller."""

    conf: NetConf
    env: Mapping[str, str] = field(default_factory=dict)
    deadline_ns: int | None = None  # of the intent; None: nobody waits


class Steps:
    def __init__(self, adapters: Adapters, group: int, default_mtu: Callable[[], int]) -> None:
        self._out = adapters
        self._group = group
        self._default_mtu = default_mtu
        self._unwirer = Unwirer(adapters.wiring, adapters.threads)

    async def perform(self, step: Step, record: Attachment, context: Context) -> Done | Failed:
        work = {
            Step.ALLOCATE: self._allocate,
            Step.WIRE: self._wire,
            Step.ADVERTISE: self._advertise,
            Step.TEAR_DOWN: self._tear_down,
        }[step]
        began = self._out.clock.mono_ns()
        outcome = await work(record, context)
        took_ms = (self._out.clock.mono_ns() - began) / 1e6
        self._out.observer.step(step.value, not isinstance(outcome, Refusal), took_ms / 1e3)
        if isinstance(outcome, Refusal):
            return Failed(step, took_ms, outcome)
        return Done(step, took_ms, outcome)

    def plan(self, record: Attachment) -> LinkPlan:
        return plan_link(record, self._group, self._default_mtu())

    # --- allocate

    async def _allocate(self, record: Attachment, context: Context) -> Mapping[str, Any] | Refusal:
        conf = context.conf
        if conf.delegate:
            return await self._allocate_by_delegate(record, context, conf.delegate)
        given = self._out.ledger.allocate(record.key, conf.pools, conf.asked)
        if isinstance(given, Refusal):
            return given
        for conflict in given.conflicts:
            self._out.warn(f"conflict {conflict.address}", str(conflict))
        for address in given.early_reuse:
            self._out.warn("early reuse", f"{address} was given again within its cool-down: its pool has no other")
        self._out.observer.allocated(len(given.addresses))
        return from_pools(conf, given.addresses, record.goal)

    async def _allocate_by_delegate(
        self, record: Attachment, context: Context, plugin: str
    ) -> Mapping[str, Any] | Refusal:
        result = await self._delegate(Verb.ADD, plugin, context)
        if isinstance(result, Refusal):
            await self._delegate(Verb.DEL, plugin, context)  # the specification's duty after a failed delegate
            return result
        if isinstance(result, UnknownVerb) or not result.ips:
            return Refusal(Code.DELEGATE_FAILED, f"the IPAM plugin {plugin} gave no address", "check `ipam`")
        clashes = self._out.ledger.claim(record.key, [ip_interface(ip.address).ip for ip in result.ips])
        if clashes:
            await self._delegate(Verb.DEL, plugin, context)
            return Refusal(
                Code.ADDRESS_REFUSED,
                f"the IPAM plugin {plugin} gave {clashes[0].address}, which {clashes[0].holder} holds",
                "give the IPAM plugin a subnet that no other network of this node uses",
            )
        self._out.observer.allocated(len(result.ips))
        return from_delegate(context.conf, result)

    async def _delegate(self, verb: Verb, plugin: str, context: Context) -> Result | UnknownVerb | Refusal:
        config = orjson.dumps(context.conf.raw)
        return await self._out.delegate(verb, plugin, config, context.env, self._patience(verb, context))

    def _patience(self, verb: Verb, context: Context) -> float:
        """Seconds for another plugin. An ADD keeps some for the DEL it owes when that fails, and for the answer."""
        if context.deadline_ns is None:
            return DELEGATE_SECONDS
        left = (context.deadline_ns - self._out.clock.mono_ns()) / 1e9 - ANSWER_SECONDS
        return max(1.0, min(DELEGATE_SECONDS, left * (0.6 if verb is Verb.ADD else 1.0)))

    # --- wire

    async def _wire(self, record: Attachment, context: Context) -> Mapping[str, Any] | Refusal:
        assert record.netns is not None, "a record that is to be wired has a namespace"
        plan = self.plan(record)
        wired = await self._in_thread(self._isolate_and_wire, record, plan, record.netns)
        if isinstance(wired, Refusal):
            return wired
        link = Link(
            host=plan.host_name,
            pod=plan.pod_name,
            host_mac=plan.host_mac,
            pod_mac=plan.pod_mac,
            mtu=plan.mtu,
            host_index=wired.host_index,
            pod_index=wired.pod_index,
        )
        return {"link": link}

    def _isolate_and_wire(self, record: Attachment, plan: LinkPlan, netns: Namespace) -> Wired | Refusal:
        self._out.ensure_pod_cidrs([ip_network(each.pool) for each in record.addresses])
        self._out.isolation.isolate(record)
        return self._out.wiring.wire(plan, netns)

    async def inspect(self, record: Attachment) -> tuple[str, ...]:
        if record.goal is State.ALLOCATED or record.netns is None:
            return ()
        differences: tuple[str, ...] = await self._in_thread(self._out.wiring.inspect, self.plan(record), record.netns)
        return differences

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._out.threads, call, *arguments)

    # --- advertise

    async def _advertise(self, record: Attachment, _: Context) -> Mapping[str, Any] | Refusal:
        refusal = await self._out.advertiser.advertise(record)
        return refusal if refusal is not None else {}

    # --- tear down

    async def _tear_down(self, record: Attachment, context: Context) -> Mapping[str, Any] | Refusal:
        refusal = await self._out.advertiser.withdraw(record)
        if refusal is not None:
            return refusal
        if record.goal is not State.ALLOCATED:
            await self._unwirer.unwire(self.plan(record).host_name)
            self._out.isolation.lift(record)
        if context.conf.delegate:
            answer = await self._delegate(Verb.DEL, context.conf.delegate, context)
            if isinstance(answer, Refusal) and (record.addresses or not says_no_for_ever(answer)):
                return answer
        if record.addresses:
            self._out.observer.released(len(record.addresses))
        self._out.ledger.release(record.key)
        return {"closed_mono": self._out.clock.mono_ns() / 1e9}

    async def ask_delegate(self, verb: Verb, context: Context) -> Refusal | None:
        """DEL, CHECK or GC of another IPAM plugin: it has nothing to say, or a refusal of its own."""
        answer = await self._delegate(verb, context.conf.delegate or "", context)
        return answer if isinstance(answer, Refusal) else None

    async def unwire_leftover(self, host_name: str) -> None:
        await self._unwirer.unwire(host_name)


def says_no_for_ever(refusal: Refusal) -> bool:
    """Another plugin's answer to DEL, in words of its own, or its absence: where it gave no address, asking again is
    of no use. What was killed or spoke nonsense may do better next time."""
    return refusal.code != Code.DELEGATE_FAILED or isinstance(refusal, NotInstalled)


def context_of(request: Request) -> Context:
    return Context(request.conf, request.intent.env, request.intent.deadline_ns)


def context_to_delete(record: Attachment, request: Request) -> Context:
    """With the configuration it was made with, not today's: that may name another IPAM plugin, or another place."""
    made_with = remembered_context(record)
    env = {**made_with.env, **request.intent.env}
    paths = (request.intent.env.get("CNI_PATH", ""), made_with.env["CNI_PATH"])
    env["CNI_PATH"] = ":".join(dict.fromkeys(path for path in paths if path))
    return Context(made_with.conf, env, request.intent.deadline_ns)


def remembered_context(record: Attachment) -> Context:
    """After a restart nobody calls: what the record kept of its configuration must do."""
    raw = {**record.config, "cniVersion": record.cni_version, "name": record.network}
    conf = parse(orjson.dumps(raw))
    if isinstance(conf, Refusal):  # of an older version, say; whom to ask about the addresses is still known
        ipam = record.config.get("ipam") or {}
        delegate = ipam.get("type") if "cni_path" in record.config else None
        conf = NetConf(name=record.network, cni_version=record.cni_version, delegate=delegate, raw=raw)
    env = {
        "CNI_PATH": str(record.config.get("cni_path", "")),
        "CNI_CONTAINERID": record.container,
        "CNI_IFNAME": record.ifname,
        "CNI_NETNS": record.netns.path if record.netns else "",
    }
    return Context(conf, env)
