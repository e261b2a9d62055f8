"""What may be tried when a link does not hold, and how often. Pure, but for the memory of what was tried.

Each act has a budget, so that a mesh that cannot be mended is left alone and reported, not shaken. Only one of them
cuts traffic that flows: a toggle of accept-routes takes all routes away for an instant. So it is done once for a route
that is missing, and not again for one that it did not bring back.

- *refresh* (`start {}`): where nothing else can tell what is so, or where all witnesses fell silent at once. It is also
  how a node learns that it was deleted.
- *approve*: with a key on this node, as often as needed; what does not help is tried less and less often.
- *re-announce*: served by nobody, although announced. Headscale up to 0.25 forgets an approval with the
  announcement, so this is left out where a person or an approver must approve.
- *toggle accept-routes*: tailscaled never restores a route that somebody deleted from its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from reconciler.mesh.budget import Budget
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Chain, Holds, Link, LinkState, Prefs, Tailnet
from reconciler.mesh.networks import within
from reconciler.mesh.verify import Seen
from reconciler.settings import Network

PATIENCE = 20.0  # seconds before an announcement is made again
SILENT = 2.9  # seconds without a word of any witness: a round was not answered
MISSING = 3.0  # seconds before a route is taken for lost
FIRST_REFRESH, LAST_REFRESH = 5.0, 300.0
NEWS_EVERY = 60.0
AFTER_ANOTHER = 2.0
ALL_SILENT = "all witnesses fell silent"
FIRST_APPROVAL, LAST_APPROVAL = 2.0, 30.0


class Act(StrEnum):
    REFRESH = "refresh"
    APPROVE = "approve"
    REANNOUNCE = "announce again"
    TOGGLE = "toggle accept-routes"


@dataclass(frozen=True, slots=True)
class Mend:
    act: Act
    prefixes: tuple[Network, ...] = ()
    why: str = ""


class Repair:
    def __init__(self, approval: str, cluster: Callable[[], Iterable[Network]], may_toggle: bool = True) -> None:
        self._approval = approval
        self._may_toggle = may_toggle
        self._cluster = cluster
        self.reset()

    def reset(self) -> None:
        """At first, and when an operator says `repair`."""
        self._reannounce = Budget(3, 600.0)
        self._reannounce_at = float("-inf")
        self._toggle = Budget(3, 600.0)
        self._refresh_again = FIRST_REFRESH
        self._refresh_at = self._refreshed_at = self._news_at = float("-inf")
        self._silent = False
        self._approve_again = FIRST_APPROVAL
        self._approve_at = float("-inf")
        self._missing_since: float | None = None
        self._in_vain: set[Network] = set()
        self.waiting = False  # for Headscale, which has not answered the last request yet
        self.needed: set[Act] = set()  # at the last plan, whether it was their time or not

    def news(self, now: float) -> None:
        """Something may have happened to this node: the next refresh need not wait for long. Not each time: a refresh
        is told of on the bus, too, and in a large tailnet something happens all the time."""
        if now >= self._news_at:
            self._news_at = now + NEWS_EVERY
            self._refresh_again = FIRST_REFRESH

    def plan(self, seen: Seen, chains: tuple[Chain, ...]) -> list[Mend]:
        self.needed.clear()
        if seen.unjoined is not None or not isinstance(seen.tailnet, Tailnet) or not isinstance(seen.prefs, Prefs):
            return []
        found = [self._approve(seen, chains), self._announce_again(seen, chains), self._lost_routes(seen)]
        return [mend for mend in (*found, self._refresh(seen, chains)) if mend is not None]

    def _approve(self, seen: Seen, chains: tuple[Chain, ...]) -> Mend | None:
        own = seen.own
        if self._approval != "key" or own is None:
            return None
        missing = tuple(chain.prefix for chain in chains if _announced(chain) and chain.prefix not in own.approved)
        if not missing:
            self._approve_again, self._approve_at = FIRST_APPROVAL, float("-inf")
            return None
        self.needed.add(Act.APPROVE)
        if self.waiting or seen.at < self._approve_at:
            return None
        self._approve_at = seen.at + self._approve_again
        self._approve_again = min(LAST_APPROVAL, self._approve_again * 2)
        return Mend(Act.APPROVE, missing, "announced, not approved")

    def _announce_again(self, seen: Seen, chains: tuple[Chain, ...]) -> Mend | None:
        idle = tuple(chain.prefix for chain in chains if self._served_by_nobody(chain, seen))
        if not idle:
            return None
        self.needed.add(Act.REANNOUNCE)
        if seen.at < self._reannounce_at or not self._reannounce.take(seen.at):
            return None
        self._reannounce_at = seen.at + PATIENCE  # what comes of it is seen later
        return Mend(Act.REANNOUNCE, idle, "announced, but sent to nobody")

    def _served_by_nobody(self, chain: Chain, seen: Seen) -> bool:
        serving, approved = chain.links[Link.SERVING], chain.links[Link.APPROVED]
        if serving.holds is not Holds.NO or not _announced(chain) or _rival(serving):
            return False
        if seen.wall - serving.since < PATIENCE:
            return False
        return approved.holds is Holds.YES or (self._approval == "auto" and approved.trouble is not None)

    def _lost_routes(self, seen: Seen) -> Mend | None:
        assert isinstance(seen.tailnet, Tailnet)
        assert isinstance(seen.prefs, Prefs)
        lost: list[Network] = []
        if seen.kernel.device is not None and seen.prefs.raw.get("RouteAll"):
            working = [peer for peer in seen.tailnet.peers.values() if peer.online and not peer.expired]
            missing = {route for peer in working for route in peer.routes} - seen.kernel.routed
            self._in_vain &= missing
            lost = within(missing - self._in_vain, self._cluster())
        if not lost or not self._may_toggle:
            self._missing_since = None
            return None
        self.needed.add(Act.TOGGLE)
        if self._missing_since is None:
            self._missing_since = seen.at
        if seen.at - self._missing_since < MISSING or not self._toggle.take(seen.at):
            return None
        self._missing_since = None
        self._in_vain |= set(lost)  # if it does not bring them back, another one will not either
        return Mend(Act.TOGGLE, tuple(lost), "shown by the control server, but not in tailscaled's table")

    def _refresh(self, seen: Seen, chains: tuple[Chain, ...]) -> Mend | None:
        why = self._reason_to_refresh(seen, chains)
        if not why:
            self._silent = False
            if seen.at - self._refresh_at > NEWS_EVERY:  # all was well for a while
                self._refresh_again = FIRST_REFRESH
            return None
        self.needed.add(Act.REFRESH)
        self._when_silent(why)
        if seen.at < self._refresh_at:
            return None
        self._refreshed_at = seen.at
        self._refresh_at = seen.at + self._refresh_again
        self._refresh_again = min(LAST_REFRESH, self._refresh_again * 2)
        return Mend(Act.REFRESH, (), why)

    def _when_silent(self, why: str) -> None:
        """That everybody fell silent may mean that this node was deleted: that does not wait for its turn."""
        if why == ALL_SILENT and not self._silent:
            self._refresh_at = min(self._refresh_at, self._refreshed_at + AFTER_ANOTHER)
        self._silent = why == ALL_SILENT

    def _reason_to_refresh(self, seen: Seen, chains: tuple[Chain, ...]) -> str:
        """Where Headscale or a witness can be asked, their word is better, and comes by itself."""
        heard = max([report.at for report in seen.reports.values()], default=None)
        if heard is not None and seen.at - heard > SILENT:
            return ALL_SILENT
        if isinstance(seen.control, tuple):
            return "" if seen.own is not None else "Headscale's list does not have this node"
        if heard is not None:
            return "witnesses disagree" if any(_disputed(chain, seen) for chain in chains) else ""
        if seen.refreshed_at < seen.doubted_at or not all(chain.in_force for chain in chains):
            return "nobody else can tell whether this node's prefixes are served"
        return "the last proof is old" if seen.at - seen.refreshed_at > LAST_REFRESH else ""


def _disputed(chain: Chain, seen: Seen) -> bool:
    """Some are not sent it, and nobody asked the control server since: policy, or a lost approval, or a stale node."""
    if seen.refreshed_at > seen.doubted_at:
        return False
    return any(not sight.accepted for _, sight in seen.sights(chain.prefix))


def _rival(serving: LinkState) -> bool:
    """Somebody else is sent it, so it is not for us to shake."""
    return serving.trouble is not None and serving.trouble.code == Trouble.NOT_PRIMARY


def _announced(chain: Chain) -> bool:
    return chain.links[Link.ANNOUNCED].holds is Holds.YES
