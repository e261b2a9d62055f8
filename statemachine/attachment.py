"""The record of one attachment: one interface of one container, and everything an operator may ask about it.

Its key is container id and interface name, never the pod's name: a StatefulSet's next pod has the same name, and a
late delete of the old sandbox must not touch the new one. Records are immutable values; a new one is made for each
transition and written whole, by rename, so a reader never sees half of one.

What is around its content is in `envelope.py`; `docs/formats.md` describes the file, and `fixtures/golden/` holds one
of every released version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from cni.result import Dns, Route, dns_from, route_from
from statemachine.envelope import Damaged as Damaged
from statemachine.envelope import UnknownVersion as UnknownVersion
from statemachine.envelope import sealed, unsealed

FORMAT = "headcni/attachment/1"
MAX_VISITS = 64  # a flapping attachment keeps its first and its latest visits


class State(StrEnum):
    REQUESTED = "requested"
    ALLOCATED = "allocated"
    WIRED = "wired"
    ADVERTISED = "advertised"
    TEARING_DOWN = "tearing-down"
    TORN_DOWN = "torn-down"


@dataclass(frozen=True, slots=True)
class Visit:
    """One transition: the state reached, when, how long the step took, and why."""

    state: State
    at: float
    took_ms: float
    cause: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the attachment is still where it is."""

    step: str
    code: int
    msg: str
    details: str
    attempt: int
    at: float
    next_try: float


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str = ""
    name: str = ""
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.name else ""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace: the path is how to enter it, device and inode are what it is."""

    path: str
    dev: int
    ino: int


@dataclass(frozen=True, slots=True)
class Address:
    address: str  # with the prefix length the pod's interface carries
    gateway: str | None
    pool: str  # the subnet it came from

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        return _parsed(self.address)


@lru_cache(1 << 14)
def _parsed(address: str) -> IPv4Address | IPv6Address:
    """Every pod's is asked for again and again."""
    return ip_address(address.partition("/")[0])


@dataclass(frozen=True, slots=True)
class Link:
    host: str
    pod: str
    host_mac: str
    pod_mac: str
    mtu: int
    host_index: int = 0
    pod_index: int = 0


@dataclass(frozen=True, slots=True)
class Attachment:
    container: str
    ifname: str
    goal: State
    network: str
    cni_version: str
    boot_id: str
    created: float
    since: float
    generation: int = 1  # of its link: one more each time it vanished and is made again
    state: State = State.REQUESTED
    answered: bool = False  # the runtime was told that this attachment exists
    pod: Pod = field(default_factory=Pod)
    netns: Namespace | None = None
    addresses: tuple[Address, ...] = ()
    link: Link | None = None
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)
    problem: Problem | None = None
    history: tuple[Visit, ...] = ()
    closed_mono: float | None = None  # when the addresses were released, on this boot's monotonic clock
    config: Mapping[str, Any] = field(default_factory=dict)  # what a later DEL or repair needs of the configuration
    traceparent: str = ""

    @property
    def key(self) -> str:
        return f"{self.container}@{self.ifname}"


def file_name(key: str) -> str:
    return key + ".json"


# --- to and from bytes


def encode(record: Attachment) -> bytes:
    return sealed(_as_dict(record))


def decode(raw: bytes) -> Attachment:
    body = unsealed(raw, FORMAT)
    try:
        return _from_dict(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"field missing or malformed: {error!r}") from None


def _as_dict(record: Attachment) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "container": record.container,
        "ifname": record.ifname,
        "pod": record.pod,
        "network": record.network,
        "state": record.state,
        "since": record.since,
        "goal": record.goal,
        "answered": record.answered,
        "generation": record.generation,
        "created": record.created,
        "addresses": record.addresses,
        "link": record.link,
        "netns": record.netns,
        "boot_id": record.boot_id,
        "routes": [route.as_dict() for route in record.routes],
        "dns": record.dns.as_dict(),
        "problem": record.problem,
        "history": record.history,
        "closed_mono": record.closed_mono,
        "cni_version": record.cni_version,
        "config": record.config,
        "traceparent": record.traceparent,
    }


def bounded(history: tuple[Visit, ...]) -> tuple[Visit, ...]:
    if len(history) <= MAX_VISITS:
        return history
    return (*history[:8], *history[8 - MAX_VISITS :])


def _from_dict(body: dict[str, Any]) -> Attachment:
    netns, link, problem = body["netns"], body["link"], body["problem"]
    return Attachment(
        container=body["container"],
        ifname=body["ifname"],
        goal=State(body["goal"]),
        network=body["network"],
        cni_version=body["cni_version"],
        boot_id=body["boot_id"],
        created=body["created"],
        since=body["since"],
        generation=body["generation"],
        state=State(body["state"]),
        answered=body["answered"],
        pod=Pod(**body["pod"]),
        netns=Namespace(**netns) if netns else None,
        addresses=tuple([Address(**each) for each in body["addresses"]]),
        link=Link(**link) if link else None,
        routes=tuple([route_from(each) for each in body["routes"]]),
        dns=dns_from(body["dns"]),
        problem=Problem(**problem) if problem else None,
        history=tuple([Visit(State(v["state"]), v["at"], v["took_ms"], v["cause"]) for v in body["history"]]),
        closed_mono=body["closed_mono"],
        config=body["config"],
        traceparent=body["traceparent"],
    )
