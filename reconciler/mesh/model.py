"""The mesh as values: what was seen, and what is concluded from it.

Everything the adapters see is turned into these once, at the edge; everything that decides takes and gives them. All
are immutable and hold no handles, so a decision can be tested, replayed and shown. Times are seconds: `at` of the
monotonic clock (to compare), `since` of the wall clock (for people).

The lists of routes in `Prefs` are text, byte for byte as tailscaled has them: most of them are not ours to rewrite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cni.spec import Refusal
from reconciler.settings import IpAddress, Network

# --- seen through tailscaled


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node of the tailnet, as tailscaled knows it; also this node itself."""

    key: str  # nodekey:…
    id: str = ""  # stable, of the control server
    name: str = ""  # first label of its name in the tailnet, else its host name
    dns_name: str = ""
    addresses: tuple[IpAddress, ...] = ()
    routes: frozenset[Network] = frozenset()  # what it may be sent, without its own addresses
    primary: frozenset[Network] = frozenset()
    online: bool = False
    expired: bool = False
    key_expiry: str = ""
    direct: str = ""  # address and port in use; empty: by a relay, or idle
    relay: str = ""


@dataclass(frozen=True, slots=True)
class Tailnet:
    """One answer of `status`."""

    version: str
    state: str  # NoState, NeedsLogin, NeedsMachineAuth, Stopped, Starting, Running
    has_node_key: bool
    tun: bool
    auth_url: str
    health: tuple[str, ...]
    me: Peer
    peers: Mapping[str, Peer] = field(default_factory=dict)  # by key
    magic_suffix: str = ""
    magic_enabled: bool = False
    owner: str = ""  # the user, or the tag, that this node belongs to; empty: not told

    @property
    def running(self) -> bool:
        return self.state == "Running"


@dataclass(frozen=True, slots=True)
class Prefs:
    control_url: str = ""
    want_running: bool = False
    logged_out: bool = False
    advertise: tuple[str, ...] = ()  # AdvertiseRoutes as it is
    raw: Mapping[str, Any] = field(default_factory=dict)  # everything, under tailscaled's names


# --- seen through Headscale


@dataclass(frozen=True, slots=True)
class ControlNode:
    """A node as Headscale knows it, whatever its version. In force: announced, approved and primary."""

    id: str
    name: str
    key: str  # nodekey:…
    addresses: tuple[IpAddress, ...] = ()
    online: bool = False
    user: str = ""
    tags: tuple[str, ...] = ()
    announced: frozenset[Network] = frozenset()
    approved: frozenset[Network] = frozenset()
    primary: frozenset[Network] = frozenset()


# --- seen by others, and in the kernel


@dataclass(frozen=True, slots=True)
class Sight:
    """What a witness said of one prefix of ours."""

    accepted: bool  # its tailscaled may send it to us
    routed: bool  # its kernel leads it into the mesh
    instead: str = ""  # who has it there, if not we: a node's name


@dataclass(frozen=True, slots=True)
class Report:
    """One answer of a witness."""

    at: float
    name: str
    sights: Mapping[Network, Sight]
    announces: tuple[Network, ...]  # its own pod prefixes
    accepts_routes: bool = True


@dataclass(frozen=True, slots=True)
class Device:
    """The interface of the mesh."""

    name: str
    index: int
    mtu: int


@dataclass(frozen=True, slots=True)
class KernelView:
    device: Device | None = None
    routed: frozenset[Network] = frozenset()  # what tailscaled's table leads into the mesh
    forward_drops: bool | None = None  # the FORWARD policy; None: not looked at


# --- concluded


class Link(StrEnum):
    """The chain of one prefix, in its order."""

    ANNOUNCED = "announced"
    APPROVED = "approved"
    SERVING = "serving"
    ACCEPTED = "accepted"
    DELIVERED = "delivered"


class Holds(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LinkState:
    holds: Holds
    evidence: str = ""  # who says so
    trouble: Refusal | None = None  # what is wrong, and the cure
    since: float = 0.0  # wall clock; of `holds`


@dataclass(frozen=True, slots=True)
class Chain:
    """One prefix of this node."""

    prefix: Network
    links: Mapping[Link, LinkState]

    @property
    def in_force(self) -> bool:
        return all(self.links[each].holds is Holds.YES for each in (Link.ANNOUNCED, Link.APPROVED, Link.SERVING))

    @property
    def missing(self) -> Refusal | None:
        """Why it is not in force: the first link that does not hold."""
        if self.in_force:
            return None
        for each in (Link.ANNOUNCED, Link.APPROVED, Link.SERVING):
            if self.links[each].trouble is not None:
                return self.links[each].trouble
        return None


@dataclass(frozen=True, slots=True)
class Way:
    """To one prefix of another node."""

    prefix: Network
    peer: str  # key
    name: str
    online: bool
    routed: bool
    delivered: LinkState
    rtt_ms: float | None = None
    path: str = ""  # direct ADDRESS, or relay NAME


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to be told, that belongs to no single link."""

    key: str  # stable while it lasts
    trouble: Refusal
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """What is published."""

    written: float  # wall clock
    state: str  # tailscaled's, or "unreachable"
    version: str = ""
    control_url: str = ""
    name: str = ""
    dns_name: str = ""
    key: str = ""  # nodekey:…
    addresses: tuple[IpAddress, ...] = ()
    device: Device | None = None
    chains: tuple[Chain, ...] = ()
    ways: tuple[Way, ...] = ()
    findings: tuple[Finding, ...] = ()
    foreign: tuple[str, ...] = ()  # of AdvertiseRoutes, what is not ours
    peers: int = 0
    peers_online: int = 0
    magic_suffix: str = ""
    magic_enabled: bool = False
    accepts_dns: bool = False
    owner: str = ""  # of this node, as a policy writes it
    log: tuple[str, ...] = ()  # the last things done, oldest first
