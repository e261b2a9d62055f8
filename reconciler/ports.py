"""The outside world as the engine sees it: a few small protocols, each with one real and one fake implementation.

What may block (netlink) is synchronous here and is called from a worker thread; what waits for somebody else (an
IPAM plugin, the mesh) is a coroutine. Expected outcomes come back as values; an exception is a fault.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cni.result import Result
from cni.spec import Refusal, Verb
from reconciler.ipam.delegate import UnknownVerb
from reconciler.ipam.pool import Address as IpAddress
from reconciler.wiring.plan import LinkPlan
from statemachine.attachment import Attachment, Namespace


class Clock(Protocol):
    def wall(self) -> float:
        """Seconds since the epoch, for people. Nothing is decided by it."""

    def mono_ns(self) -> int:
        """CLOCK_MONOTONIC, the one the plugin's deadlines are in."""


class SystemClock:
    def wall(self) -> float:
        return time.time()

    def mono_ns(self) -> int:
        return time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Wired:
    host_index: int
    pod_index: int


class Wiring(Protocol):
    def identity(self, path: str) -> Namespace | Refusal: ...

    def wire(self, plan: LinkPlan, netns: Namespace) -> Wired | Refusal: ...

    def unwire(self, host_names: Sequence[str]) -> None: ...

    def inspect(self, plan: LinkPlan, netns: Namespace) -> tuple[str, ...]: ...

    def links(self) -> frozenset[str]:
        """Host ends of this daemon's pairs."""

    def addresses_behind(self, host_name: str) -> tuple[IpAddress, ...]:
        """What the host's routes send to that link."""


class Isolation(Protocol):
    """Network policy's place: what is here must be in the kernel before the interface is."""

    def isolate(self, record: Attachment) -> None: ...

    def lift(self, record: Attachment) -> None: ...


class Advertiser(Protocol):
    """Makes other nodes find the way to a pod. Never delays an ADD: it runs after the answer."""

    async def advertise(self, record: Attachment) -> Refusal | None: ...

    async def withdraw(self, record: Attachment) -> Refusal | None: ...


class Delegate(Protocol):
    """Another IPAM plugin, executed from CNI_PATH."""

    async def __call__(
        self, verb: Verb, plugin: str, config: bytes, env: Mapping[str, str], within: float
    ) -> Result | UnknownVerb | Refusal: ...


class NoIsolation:
    """Until policies are enforced. The daemon says so once, and `status` shows it."""

    def isolate(self, record: Attachment) -> None:
        return

    def lift(self, record: Attachment) -> None:
        return
