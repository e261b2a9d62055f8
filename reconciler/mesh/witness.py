"""Being asked by other nodes' daemons, and asking them: the probe, its schedule and what was last looked at, joined.

A node is answered only by what it is: the member of the tailnet whose address, or whose pod range, the question came
from; and told only how its own prefixes look from here. Whoever asked lately and then looks different gets a hint
to ask again, so a change is known there as soon as it is seen here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.look import Looker, set_within
from reconciler.mesh.model import Holds, LinkState, Peer, Prefs, Sight, Tailnet
from reconciler.mesh.networks import gateway, within
from reconciler.mesh.ports import Echo, Prober, Unanswered
from reconciler.mesh.schedule import Ask, Purpose, Schedule
from reconciler.mesh.verify import Delivery
from reconciler.mesh.wire import MAX_PREFIXES, Answer
from reconciler.settings import IpAddress, Network

WITHIN = 1.0  # seconds for an answer
ASKED_LATELY = 30.0
MOST_ASKERS = 1024
ROUTES_REMEMBERED = 1 << 13  # of peers, each as a set


class Silent:
    """Where mesh.probePort is 0: nobody is asked, nobody is answered."""

    def set_addresses(self, addresses: Sequence[IpAddress]) -> Sequence[Refusal]:
        return ()

    async def ask(
        self, source: IpAddress, target: IpAddress, prefixes: Sequence[Network], within: float
    ) -> Echo | Unanswered:
        return Unanswered("mesh.probePort is 0")

    def hint(self, source: IpAddress, target: IpAddress) -> None:
        return


GiveAnswer = Callable[[IpAddress, tuple[Network, ...]], Answer | None]
HeardHint = Callable[[IpAddress], None]
Pods = tuple[tuple[Network, IpAddress], ...]  # prefixes, and the gateway address in each


@dataclass(frozen=True, slots=True)
class Asker:
    at: float
    routes: frozenset[Network]  # as it was sent them when it was answered


class Witness:
    def __init__(
        self,
        looker: Looker,
        own: Callable[[], tuple[Network, ...]],
        cluster: Callable[[], tuple[Network, ...]],
        news: Callable[[], None],
        look_again: Callable[[], None],
        seed: str,
    ) -> None:
        """`own`: this node's prefixes. `news` is called when what a witness says of us has changed, `look_again` when
        one is silent, or packets begin or cease to arrive somewhere."""
        self._looker = looker
        self._prober: Prober = Silent()
        self._own = own
        self._cluster = cluster
        self._news = news
        self._look_again = look_again
        self.schedule = Schedule(seed)
        self._askers: dict[IpAddress, Asker] = {}
        self._hinted: set[IpAddress] = set()
        self._hint_came = asyncio.Event()
        self._last_told: object = None  # by any of them
        self._pods_of = lru_cache(ROUTES_REMEMBERED)(_pods)  # the same question for each peer in each turn

    def use(self, prober: Prober) -> None:
        """It asks back here, so it can only be made after this."""
        self._prober = prober

    # --- being asked

    def answer(self, source: IpAddress, prefixes: tuple[Network, ...]) -> Answer | None:
        peer = self._looker.index.who_is(source)
        prefs, tailnet = self._looker.prefs, self._looker.tailnet
        if peer is None or not isinstance(tailnet, Tailnet) or not tailnet.running:
            return None
        self._remember(peer)
        self._try_again(peer)
        sights = tuple([self._looker.sight(peer, prefix) for prefix in prefixes])
        accepts = isinstance(prefs, Prefs) and bool(prefs.raw.get("RouteAll"))
        return Answer(tailnet.me.name, self._own()[:MAX_PREFIXES], sights, accepts, blind=not tailnet.me.online)

    def _try_again(self, peer: Peer) -> None:
        """It is there, so what did not arrive there before may arrive now."""
        lost = [route for route, target in self.pods(peer) if (s := self.schedule.reached(target)) and s.failures]
        if lost:
            self.schedule.soon(self._looker.now(), lost)

    def heard_hint(self, source: IpAddress) -> None:
        """A node says that it sees us differently now; it is asked, and nothing else of it is believed."""
        if source in self._looker.index.by_address:
            self._hinted.add(source)
            self._hint_came.set()

    def ask_now(self) -> bool:
        """Those that answered last, out of their turn. False: there is none."""
        chosen = self.schedule.witnesses
        self._hinted.update(chosen)
        self._hint_came.set()
        return bool(chosen)

    def hint_who_looks_different(self) -> None:
        """To be called after each look."""
        now = self._looker.now()
        for address, asker in list(self._askers.items()):
            peer = self._looker.index.by_address.get(address)
            if now - asker.at > ASKED_LATELY:
                del self._askers[address]
            elif peer is None or peer.routes != asker.routes:
                self._askers[address] = Asker(asker.at, peer.routes if peer else frozenset())
                self._hint(address)

    def _hint(self, target: IpAddress) -> None:
        source = self._source_for(Ask(Purpose.WITNESS, target))
        if source is not None:
            self._prober.hint(source, target)

    def _remember(self, peer: Peer) -> None:
        if peer.addresses and (peer.addresses[0] in self._askers or len(self._askers) < MOST_ASKERS):
            self._askers[peer.addresses[0]] = Asker(self._looker.now(), peer.routes)

    # --- asking

    def peers_changed(self) -> None:
        """To be called after each look."""
        tailnet = self._looker.tailnet
        if not isinstance(tailnet, Tailnet):
            return
        peers = [peer for peer in tailnet.peers.values() if peer.addresses and not peer.expired]
        online = {peer.addresses[0]: peer.online and bool(self.pods(peer)) for peer in peers}
        prefixes = {route for peer in peers if peer.online for route, _ in self.pods(peer)}
        self.schedule.peers_changed(self._looker.now(), online, prefixes)
        parts = range(self._parts())
        gone = self._looker.reports.keys() - {f"{peer.key}#{part}" for peer in peers for part in parts}
        for key in gone:
            del self._looker.reports[key]

    def pods(self, peer: Peer) -> Pods:
        """Those of its routes behind which a daemon may answer. While they are the same, it is the same object."""
        return self._pods_of(peer.routes, self._cluster())

    async def run(self) -> None:
        if isinstance(self._prober, Silent):
            return  # nothing is known then, which is not the same as an answer that did not come
        async with asyncio.TaskGroup() as asking:
            while True:
                now = self._looker.now()
                hinted = {Ask(Purpose.WITNESS, each) for each in self._hinted}
                self._hinted.clear()
                self._hint_came.clear()
                for ask in hinted.union(self.schedule.due(now)):
                    asking.create_task(self._ask(ask))
                pause = self.schedule.next_due(now) - now
                await set_within(self._hint_came, min(1.0, max(0.05, pause)))

    async def _ask(self, ask: Ask) -> None:
        source = self._source_for(ask)
        if source is None:
            return
        own = self._own()
        parts = self._parts() if ask.purpose is Purpose.WITNESS else 1
        for part in range(parts):
            asked = own[part * MAX_PREFIXES : (part + 1) * MAX_PREFIXES]
            outcome = await self._prober.ask(source, ask.target, asked, WITHIN)
            arrived = self._arrives(ask)
            if isinstance(outcome, Unanswered):
                self.schedule.unanswered(ask, self._looker.now(), outcome.why)
                self._miss(ask, part)
            else:
                self.schedule.answered(ask, self._looker.now(), outcome.rtt_ms)
                self._note(ask, part, outcome)
            if arrived is not None and self._arrives(ask) != arrived:
                self._look_again()  # a way that was never tried is no news: in a large tailnet there is always one
            if isinstance(outcome, Unanswered):
                return

    def _arrives(self, ask: Ask) -> bool | None:
        """Whether packets of pods do, as far as is known."""
        standing = self.schedule.reached(ask.target) if ask.purpose is Purpose.DELIVERY else None
        return None if standing is None else standing.failures == 0

    def _miss(self, ask: Ask, part: int) -> None:
        """That a witness is silent is news: it may be this node that nobody hears any more."""
        peer = self._looker.index.by_address.get(ask.target)
        if peer is not None and f"{peer.key}#{part}" in self._looker.reports:
            self._look_again()

    def _note(self, ask: Ask, part: int, echo: Echo) -> None:
        peer = self._looker.index.who_is(ask.target)
        if peer is None:
            return
        key = f"{peer.key}#{part}"
        before = self._looker.reports.get(key)
        self._looker.reports[key] = echo.report
        if not echo.report.sights:
            return  # it is there, and blind
        told = _told(echo.report.sights)
        if before is not None and _told(before.sights) != told:
            self._looker.doubt_before(echo.report.at)
            self._news()
        elif before is None and (self._last_told != told or len(self._looker.reports) == 1):
            self._looker.doubt_before(echo.report.at)  # whatever was known is older than the first word of a witness
            self._news()  # else it is one more that says the same as the others
        self._last_told = told

    def _source_for(self, ask: Ask) -> IpAddress | None:
        if ask.purpose is Purpose.DELIVERY:
            sources = self.gateways()
        else:
            tailnet = self._looker.tailnet
            sources = list(tailnet.me.addresses) if isinstance(tailnet, Tailnet) else []
        return next((each for each in sources if each.version == ask.target.version), None)

    def gateways(self) -> list[IpAddress]:
        """This node's, from which it asks and at which it answers."""
        return [gateway(prefix) for prefix in self._own() if prefix.num_addresses > 1]

    def _parts(self) -> int:
        return max(1, -(-len(self._own()) // MAX_PREFIXES))

    # --- what the probes showed

    def deliveries(self) -> dict[Network, tuple[Delivery, ...]]:
        """By own prefix: how it goes to each other node's, of the same family."""
        tailnet = self._looker.tailnet
        if not isinstance(tailnet, Tailnet):
            return {}
        found: dict[int, list[Delivery]] = {4: [], 6: []}
        for peer in tailnet.peers.values():
            for route, target in self.pods(peer):
                standing = self.schedule.reached(target)
                if standing is not None:
                    ok = standing.failures == 0
                    found[route.version].append(Delivery(peer.name, ok, standing.rtt_ms or 0.0, standing.why))
        return {prefix: tuple(found[prefix.version]) for prefix in self._own()}

    def delivered(self, target: IpAddress, before: LinkState | None, wall: float) -> tuple[LinkState, float | None]:
        """How the probes to a gateway address go, and the last round trip in milliseconds."""
        standing = self.schedule.reached(target)
        if standing is None:
            state = LinkState(Holds.UNKNOWN, "not tried yet")
        elif standing.failures:
            evidence = f"{standing.failures} probes were lost: {standing.why}"
            trouble = Refusal(
                Trouble.NOT_DELIVERED, f"{target} does not answer: {standing.why}", f"see `headcni mesh why {target}`"
            )
            state = LinkState(Holds.NO, evidence, trouble)
        else:
            state = LinkState(Holds.YES, "a probe was answered")
        since = before.since if before and before.holds is state.holds else wall
        return replace(state, since=since), standing.rtt_ms if standing else None


def _told(sights: object) -> object:
    """What changes our standing: whether the prefix is accepted, and by whom instead. Not whether it is routed yet."""
    assert isinstance(sights, dict)
    return {prefix: (sight.accepted, sight.instead) for prefix, sight in sights.items() if isinstance(sight, Sight)}


def _pods(routes: frozenset[Network], cluster: tuple[Network, ...]) -> Pods:
    """Not of the whole cluster's range, which no node has."""
    return tuple([(each, gateway(each)) for each in within(routes, cluster) if each not in cluster])
