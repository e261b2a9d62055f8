"""What is concluded from what was seen: the chain of each own prefix, link by link. Pure.

The links after *announced* are seen only by others, so they are judged by claims: a witness says that it is sent the
prefix, Headscale that this node is primary for it, tailscaled that it is, when it was made to ask. Each claim speaks of
the instant it was made. A doubt (the bus told of a change, a witness changed its mind) makes all older claims worth
less; only where there is no newer one do they still count, so that a state does not flicker while it is asked about.
Among the newer, who asked the control server decides. Where only witnesses speak, a single yes proves the link, because
a no may be one viewer's policy.

Later links prove the earlier: whoever is sent a prefix needs no further proof that it was announced and approved. A
link without any claim is unknown; it is never taken for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import (
    Chain,
    ControlNode,
    Holds,
    KernelView,
    Link,
    LinkState,
    Prefs,
    Report,
    Sight,
    Tailnet,
)
from reconciler.settings import Network

WITNESS_FRESH = 8.0  # seconds; of four questions
CONTROL_FRESH = 600.0  # twice the longest time between two lists


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the last probe from one of our prefixes to a peer's went."""

    name: str
    ok: bool
    rtt_ms: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is known at one instant. What could not be read is the refusal that says why."""

    at: float
    wall: float
    tailnet: Tailnet | Refusal
    prefs: Prefs | Refusal
    kernel: KernelView = field(default_factory=KernelView)
    unjoined: Refusal | None = None  # why this node is no working member of our tailnet
    settling: bool = False  # it is about to become one, and nothing is wrong
    offline_for: float = 0.0  # seconds that tailscaled calls itself cut off from the control server
    doubted_at: float = float("-inf")
    control: tuple[ControlNode, ...] | Refusal | None = None  # None: there is no key to ask with
    control_at: float = float("-inf")
    reports: Mapping[str, Report] = field(default_factory=dict)  # by the witness's node key
    refreshed_primary: frozenset[Network] | None = None
    refreshed_at: float = float("-inf")
    deliveries: Mapping[Network, tuple[Delivery, ...]] = field(default_factory=dict)  # by own prefix

    @property
    def offline(self) -> bool:
        """The control server is lost, so nobody changes anything."""
        return isinstance(self.tailnet, Tailnet) and self.tailnet.running and not self.tailnet.me.online

    @property
    def own(self) -> ControlNode | None:
        """This node in Headscale's eyes, if it was asked lately."""
        if not isinstance(self.control, tuple) or isinstance(self.tailnet, Refusal):
            return None
        if self.at - self.control_at > CONTROL_FRESH:
            return None
        return next((each for each in self.control if each.key == self.tailnet.me.key), None)

    def sights(self, prefix: Network) -> list[tuple[Report, Sight]]:
        fresh = [report for report in self.reports.values() if self.at - report.at <= WITNESS_FRESH]
        return [(report, report.sights[prefix]) for report in fresh if prefix in report.sights]


@dataclass(frozen=True, slots=True)
class Claim:
    at: float
    serving: bool
    evidence: str
    instead: str = ""  # who is sent the prefix, if not we
    asked_control: bool = False  # Headscale itself said so, or tailscaled made to ask it


def judge(prefix: Network, seen: Seen, before: Chain | None, approval_cure: str) -> Chain:
    """`approval_cure`: what to do about a missing approval, in the way that is configured."""
    serving, rival = _serving(prefix, seen)
    if serving.holds is Holds.UNKNOWN and seen.offline and before and before.links[Link.SERVING].holds is Holds.YES:
        serving = LinkState(Holds.YES, "as before the control server was lost")
    links = {
        Link.ANNOUNCED: _announced(prefix, seen, serving),
        Link.APPROVED: _approved(prefix, seen, serving, rival, approval_cure),
        Link.SERVING: serving,
        Link.ACCEPTED: _accepted(prefix, seen, serving),
        Link.DELIVERED: _delivered(prefix, seen),
    }
    return Chain(prefix, {link: _dated(state, before, link, seen.wall) for link, state in links.items()})


def _dated(state: LinkState, before: Chain | None, link: Link, wall: float) -> LinkState:
    earlier = before.links[link] if before else None
    since = earlier.since if earlier and earlier.holds is state.holds else wall
    return LinkState(state.holds, state.evidence, state.trouble, since)


# --- announced, approved, serving


def _announced(prefix: Network, seen: Seen, serving: LinkState) -> LinkState:
    if serving.holds is Holds.YES:
        return LinkState(Holds.YES, serving.evidence)
    if isinstance(seen.prefs, Refusal):
        return LinkState(Holds.UNKNOWN, "", seen.prefs)
    if str(prefix) in seen.prefs.advertise:
        return LinkState(Holds.YES, "in tailscaled's AdvertiseRoutes")
    what = f"{prefix} is not in tailscaled's AdvertiseRoutes"
    return LinkState(
        Holds.NO, "tailscaled's AdvertiseRoutes", Refusal(Trouble.NOT_ANNOUNCED, what, "the daemon adds it")
    )


def _approved(prefix: Network, seen: Seen, serving: LinkState, rival: str, cure: str) -> LinkState:
    if serving.holds is Holds.YES:
        return LinkState(Holds.YES, serving.evidence)
    own = seen.own
    if own is not None and prefix in own.approved:
        return LinkState(Holds.YES, "Headscale's list")
    if own is not None:
        return LinkState(Holds.NO, "Headscale's list", Refusal(Trouble.NOT_APPROVED, f"{prefix} is not approved", cure))
    if rival or _cut_off(seen) is not None or serving.holds is Holds.UNKNOWN:
        return LinkState(Holds.UNKNOWN, "cannot be told from here")
    what = f"no node is sent {prefix}; most likely it is not approved"
    return LinkState(Holds.UNKNOWN, serving.evidence, Refusal(Trouble.NOT_APPROVED, what, cure))


def _serving(prefix: Network, seen: Seen) -> tuple[LinkState, str]:
    """And who is sent the prefix, if somebody else is."""
    cut = _cut_off(seen)
    if cut is not None:
        return LinkState(Holds.NO, "", cut), ""
    claims = list(_claims(prefix, seen))
    claim = _decisive(claims, seen.doubted_at)
    if claim is None:
        what = f"nobody could be asked yet whether {prefix} is served"
        return LinkState(Holds.UNKNOWN, "", Refusal(Trouble.UNPROVEN, what, "it is asked; see again in a moment")), ""
    if claim.serving:
        return LinkState(Holds.YES, claim.evidence), ""
    instead = claim.instead or next((each.instead for each in claims if each.instead), "")
    if instead:
        what = f"{prefix} is sent to {instead}"
        trouble = Refusal(Trouble.NOT_PRIMARY, what, f"remove it from {instead}, or change this node's pod CIDR")
    else:
        cure = "approve it; if it is approved, the daemon announces it again"
        trouble = Refusal(Trouble.NOT_SERVED, f"{prefix} is sent to no node", cure)
    return LinkState(Holds.NO, claim.evidence, trouble), instead


def _cut_off(seen: Seen) -> Refusal | None:
    """Nothing can be served: there is no tunnel, or this node is no member."""
    if isinstance(seen.tailnet, Refusal):
        return None if seen.kernel.device else seen.tailnet
    return seen.unjoined


def _decisive(claims: list[Claim], doubted_at: float) -> Claim | None:
    """Who asked the control server decides over witnesses, one of which may live in the past."""
    newer = [claim for claim in claims if claim.at > doubted_at]
    for some in ([claim for claim in newer if claim.asked_control], newer):
        for claim in some:
            if claim.serving:
                return claim
        if some:
            return max(some, key=lambda claim: claim.at)
    return max(claims, key=lambda claim: claim.at, default=None)


def _claims(prefix: Network, seen: Seen) -> Iterator[Claim]:
    for report, sight in seen.sights(prefix):
        if sight.accepted:
            yield Claim(report.at, True, f"{report.name} is sent it")
        else:
            whose = f"; it has it from {sight.instead}" if sight.instead else ""
            yield Claim(report.at, False, f"{report.name} is not sent it{whose}", sight.instead)
    own = seen.own
    if own is not None and isinstance(seen.control, tuple):
        rival = next((_present(each) for each in seen.control if prefix in each.primary and each is not own), "")
        yield Claim(seen.control_at, prefix in own.primary, "Headscale's list", rival, asked_control=True)
    if seen.refreshed_primary is not None:
        here = prefix in seen.refreshed_primary
        yield Claim(seen.refreshed_at, here, "tailscaled, after a refresh", asked_control=True)


def _present(node: ControlNode) -> str:
    return node.name if node.online else f"{node.name}, which is offline"


# --- accepted, delivered


def _accepted(prefix: Network, seen: Seen, serving: LinkState) -> LinkState:
    sights = seen.sights(prefix)
    if not sights:
        return LinkState(Holds.UNKNOWN, "no other node with HeadCNI answers")
    having = [report.name for report, sight in sights if sight.accepted and sight.routed]
    unsent = [report.name for report, sight in sights if not sight.accepted]
    unrouted = [report.name for report, sight in sights if sight.accepted and not sight.routed]
    said = [f"{_named(having)} {'route' if len(having) > 1 else 'routes'} to it"] if having else []
    said += [f"{_named(unrouted)}: sent it, but no route"] if unrouted else []
    said += [f"{_named(unsent)}: not sent it"] if unsent else []
    trouble = None
    if unrouted:
        refusing = [report.name for report, sight in sights if sight.accepted and not report.accepts_routes]
        what = (
            f"{_named(refusing)}: does not accept routes" if refusing else f"{_named(unrouted)}: no route to {prefix}"
        )
        trouble = Refusal(Trouble.NOT_ACCEPTED, what, "accept-routes must be on there; the daemon there mends it")
    elif unsent and serving.holds is Holds.YES:
        cure = "let Headscale's policy allow these nodes to reach the prefix"
        trouble = Refusal(Trouble.HIDDEN, f"{prefix} is served, but not shown to {_named(unsent)}", cure)
    return LinkState(Holds.YES if having else Holds.NO, "; ".join(said), trouble)


def _delivered(prefix: Network, seen: Seen) -> LinkState:
    tried = seen.deliveries.get(prefix, ())
    arrived = [each for each in tried if each.ok]
    lost = [each for each in tried if not each.ok]
    if arrived:
        best = min(arrived, key=lambda each: each.rtt_ms)
        more = f"; not {_named([each.name for each in lost])}" if lost else ""
        return LinkState(Holds.YES, f"{best.name} answered in {best.rtt_ms:.1f} ms{more}")
    if not lost:
        return LinkState(Holds.UNKNOWN, "no other node's pod range is known")
    names, why = _named([each.name for each in lost]), lost[-1].why
    what = f"no packet from {prefix} was answered by {names}" + (f" ({why})" if why else "")
    cure = "see `headcni mesh why` with an address of that node"
    return LinkState(Holds.NO, f"probes to {names}", Refusal(Trouble.NOT_DELIVERED, what, cure))


def _named(names: list[str], most: int = 3) -> str:
    names = sorted(set(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
