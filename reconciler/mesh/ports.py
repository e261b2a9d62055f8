"""The outside world as the mesh sees it: protocols with one real and one stand-in implementation each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cni.spec import Refusal
from reconciler.mesh.model import ControlNode, KernelView, Prefs, Report, Tailnet
from reconciler.node.wish import Problem
from reconciler.settings import IpAddress, Network


@dataclass(frozen=True, slots=True)
class Notice:
    """Something came over tailscaled's event bus. It says that a look is due; what it carries is only a help."""

    about_me: bool = False  # what the control server says of this node has changed
    written: tuple[tuple[str, ...], ...] = ()  # AdvertiseRoutes, each time preferences were written, in order
    error: str = ""  # such as the reason why a login failed
    reconnected: bool = False  # the bus was lost before: tailscaled may have been restarted


class Tailscaled(Protocol):
    async def status(self) -> Tailnet | Refusal: ...

    async def prefs(self) -> Prefs | Refusal: ...

    async def edit(self, changes: Mapping[str, Any]) -> Prefs | Refusal:
        """Sets these preferences, under tailscaled's names, and no others; the preferences as they are then."""

    async def start(self, auth_key: str = "", prefs: Mapping[str, Any] | None = None) -> Refusal | None:
        """With a key: joins, or joins again. `prefs` replaces all preferences. With neither: a harmless refresh."""

    def watch(self) -> AsyncIterator[Notice]:
        """For ever; reconnects by itself, and says so."""

    async def close(self) -> None: ...


class Headscale(Protocol):
    async def nodes(self) -> tuple[ControlNode, ...] | Refusal: ...

    async def approve(
        self, node: ControlNode, wanted: Collection[Network], unwanted: Collection[Network] = (), again: bool = False
    ) -> ControlNode | Refusal:
        """Approves and revokes these, leaves all others as they are (read fresh before); the node as it is then.
        `again`: also writes what is approved already, which makes some versions choose anew who serves it."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Echo:
    """An answer to a probe."""

    report: Report
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Unanswered:
    why: str


class Prober(Protocol):
    def set_addresses(self, addresses: Sequence[IpAddress]) -> Sequence[Refusal]:
        """Listens at these and no others; why it cannot at some."""

    async def ask(
        self, source: IpAddress, target: IpAddress, prefixes: Sequence[Network], within: float
    ) -> Echo | Unanswered:
        """A datagram from one of this node's addresses to another node's daemon."""

    def hint(self, source: IpAddress, target: IpAddress) -> None:
        """Tells the daemon there to ask again; it may be lost."""


class MeshKernel(Protocol):
    def look(self, addresses: Sequence[IpAddress]) -> KernelView:
        """`addresses` are this node's in the tailnet: by them the mesh's interface is known. Blocking, about 1 ms."""


class MeshFence(Protocol):
    """What keeps pod packets inside the mesh, and local ones on the node. Blocking."""

    def fence_problems(self) -> tuple[Problem, ...]: ...

    def close_the_way_out(self) -> tuple[Problem, ...]:
        """Puts back what is missing; what is still wrong."""
