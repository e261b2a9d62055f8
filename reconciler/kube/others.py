"""Whose pods are where, by the Node objects: so that a pod CIDR that two nodes have is found, and told.

kube-controller-manager gives no CIDR twice. So nothing is looked for while this node uses what its own Node object
says: a list of all nodes, by each of a thousand, is a burden that would find nothing. Nobody vouches for a CIDR that
was configured, found in a file, or guessed. It is compared once for each connection, and then now and then; a guess
at once and more often, for it is the one that clashes. The times are drawn, so that those of many nodes do not meet.

Both are read of a Node: what the cluster gave it, and what the daemon there says that it uses (an annotation). Two
nodes with the same configuration clash, whatever the cluster gave them. Nothing else is kept of a page.

A kubelet's credentials may not list other Nodes (AuthorizeNodeWithSelectors, from Kubernetes 1.32). Then nothing is
looked for, and the status says so and why. It is nobody's fault, so it is no warning.

Rejected: a watch, which would keep a thousand nodes' heartbeats coming for something that hardly ever changes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cni.spec import Refusal
from reconciler.kube import objects
from reconciler.kube.codes import Trouble
from reconciler.kube.events import Notice, of_node
from reconciler.kube.finder import Reaching
from reconciler.kube.node import POD_CIDR
from reconciler.kube.objects import Node
from reconciler.kube.ports import Api, HttpRefusal, Object
from reconciler.mesh.networks import covers
from reconciler.node.clash import Others
from reconciler.operate.status import Status
from reconciler.ports import Clock
from reconciler.settings import Network

NODES = "/api/v1/nodes"
PAGE = 100  # nodes; of a thousand in pages of 250 the daemon keeps 13 MiB more, for good
MOST = 20_000  # nodes; no cluster has more, and memory has a bound
STARTS = 3  # of a list whose next page the server has forgotten
GONE = 410
CLAIMS = 4  # CIDRs that one node can say it has: two families, before and after a change

AT_ONCE, LATER = (0.0, 2.0), (5.0, 120.0)  # seconds after the connection, drawn: a CIDR may be about to be given
GUESS_EVERY, EVERY, AGAIN = 600.0, 3600.0, 60.0  # seconds; the last after a failure, and at least between two looks

log = logging.getLogger("headcni")


# --- pages


class Gathering:
    """What is kept of the pages of one list."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._nodes = 0
        self._networks: dict[Network, str] = {}

    def add(self, page: Object) -> str | None:
        """Where the next page begins; empty: nowhere. None: it is no page of Nodes."""
        items, meta = page.get("items"), page.get("metadata")
        if not isinstance(items, list | None) or not isinstance(meta, Mapping):
            return None
        for raw in items or ():
            node = objects.node(raw) if isinstance(raw, Mapping) else None
            if node is not None:
                self._nodes += 1
                for network in claims(node) if node.name != self._own else ():
                    self._networks.setdefault(network, node.name)  # of two that have the same, the first
        return str(meta.get("continue") or "")

    @property
    def found(self) -> Others:
        return Others(self._nodes, self._networks)


def claims(node: Node) -> tuple[Network, ...]:
    said = objects.networks(node.annotations.get(POD_CIDR, "").split(",", CLAIMS)[:CLAIMS])
    return tuple(dict.fromkeys((*node.pod_cidrs, *said)))


async def read(api: Api, own: str) -> Others | Refusal:
    """Each page is reduced before the next is fetched."""
    for _ in range(STARTS - 1):
        outcome = await _read_once(api, own)
        if not (isinstance(outcome, HttpRefusal) and outcome.status == GONE):
            return outcome
    return await _read_once(api, own)


async def _read_once(api: Api, own: str) -> Others | Refusal:
    gathering, following = Gathering(own), ""
    for _ in range(MOST // PAGE):
        page = await api.get(NODES, {"limit": str(PAGE), **({"continue": following} if following else {})})
        if isinstance(page, Refusal):
            return page
        added = gathering.add(page)
        if added is None:
            return Refusal(Trouble.API_ANSWER, f"{api.endpoint}: the answer is no list of Nodes", "see what is dialled")
        following = added
        if not following:
            break
    return gathering.found


# --- when


@dataclass(frozen=True, slots=True)
class Wanted:
    """When it is another one than before, the next look is drawn anew."""

    way: str
    since: float  # when there was a way again
    first: tuple[float, float]
    every: float


def vouched_for(own: tuple[Network, ...], node: Node) -> bool:
    """By the cluster: it gave this node all that it uses."""
    return all(any(covers(given, each) for given in node.pod_cidrs) for each in own)


class Schedule:
    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._wanted: Wanted | None = None
        self._due = self._last = float("-inf")

    def due(self, wanted: Wanted | None, now: float) -> bool:
        if wanted is not None and wanted != self._wanted:
            soonest, latest = wanted.first
            self._due = max(now + soonest + (latest - soonest) * self._draw(), self._last + AGAIN)
        self._wanted = wanted
        return wanted is not None and now >= self._due

    def looked(self, now: float, failed: bool) -> None:
        pause = AGAIN if failed or self._wanted is None else self._wanted.every
        self._last, self._due = now, now + pause * (0.8 + 0.4 * self._draw())


# --- what comes of it


@dataclass(frozen=True, slots=True)
class Searched:
    needed: bool = False
    others: Others = field(default_factory=Others)
    looked: float = 0.0  # when, since the epoch; 0: not yet
    trouble: Refusal | None = None  # why the last look was none


class Search:
    def __init__(self, own: str, clock: Clock, draw: Callable[[], float] = random.random) -> None:
        self._own = own
        self._clock = clock
        self._schedule = Schedule(draw)
        self.outcome = Searched()

    async def turn(
        self, reaching: Reaching | None, node: Node | None, status: Status | None, api: Callable[[], Awaitable[Api]]
    ) -> None:
        """To be called again and again. Who is not known by name cannot tell itself from others, and does not look."""
        if status is None or node is None:
            return
        own = objects.networks(status.pod_cidrs)
        needed = not vouched_for(own, node)
        if needed != self.outcome.needed:
            self.outcome = Searched(needed)
        wanted = self._wanted(reaching, node, bool(status.pod_cidr_source.get("guess"))) if needed else None
        if self._schedule.due(wanted, self._clock.mono_ns() / 1e9):
            self._take(await read(await api(), self._own))

    def _wanted(self, reaching: Reaching | None, node: Node, guess: bool) -> Wanted | None:
        if reaching is None or reaching.endpoint is None:
            return None
        first = AT_ONCE if guess and not node.pod_cidrs else LATER
        return Wanted(reaching.endpoint, reaching.since, first, GUESS_EVERY if guess else EVERY)

    def _take(self, found: Others | Refusal) -> None:
        refused = isinstance(found, Refusal) and found.code == Trouble.API_FORBIDDEN
        self._schedule.looked(self._clock.mono_ns() / 1e9, failed=isinstance(found, Refusal) and not refused)
        if not isinstance(found, Refusal):
            self.outcome = Searched(True, found, self._clock.wall())
        elif found != self.outcome.trouble:
            log.info("kube: no clash of pod CIDRs was looked for among other Nodes: code=%d %s", found.code, found)
            self.outcome = replace(self.outcome, trouble=found)


def of_clashes(node: Node, pod_cidr: Mapping[str, Any]) -> Iterator[Notice]:
    """`pod_cidr` as in `status.json`: what was found is judged there."""
    for each in pod_cidr.get("findings", ()):
        if each["code"] == Trouble.CIDR_CLASH:
            yield Notice(of_node(node), "HeadCNIPodCIDRClash", each["why"], f"{each['why']}; {each['cure']}")
