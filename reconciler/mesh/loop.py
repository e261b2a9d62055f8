"""The mesh's loop: look, join, prefer, announce, judge, mend, publish. Everything else in this folder is used here.

A turn is made when something happened and every four seconds, more often while something does not hold. However much
happens, turns are rationed by what they cost: after one that took 5 ms of CPU comes a quarter of a second of rest, so
turns take two per cent of a core and not more, also in a tailnet of a thousand restless peers. News of this node itself
are not made to wait.

A fault in here goes up to the daemon's supervisor, which logs it and runs this anew; pods are not concerned by it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.mesh.acts import Actor, Outside
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Generation
from reconciler.mesh.look import Looker, set_within
from reconciler.mesh.model import Chain, Prefs, Tailnet, View
from reconciler.mesh.picture import Picture
from reconciler.mesh.policy import snippet
from reconciler.mesh.ports import Prober
from reconciler.mesh.record import in_order
from reconciler.mesh.repair import Act, Mend, Repair
from reconciler.mesh.verify import Seen, judge
from reconciler.mesh.witness import GiveAnswer, HeardHint, Witness
from reconciler.node.wish import Problem
from reconciler.settings import Network
from reconciler.store import Store

log = logging.getLogger("headcni")

RELIST = 4.0  # seconds between turns without any event: what is shown is true within five
UNEASY = 1.0  # while something does not hold
SHORTEST = 0.2
HEAR_SECONDS = 0.5  # for the bus; it takes some milliseconds
REST_FOR_WORK = 50.0  # seconds of rest for each second of CPU
URGENT_REST, LONGEST_URGENT = 15.0, 0.4  # where news of this node itself wait
LIST_EVERY = 30.0  # seconds, for Headscale; it pays 60 ms for each list
LIST_FOR_EACH_NODE = 0.3  # and more in large clusters
LIST_UNEASY = 2.0
FILTER_EVERY = 60.0
MOMENT = 2.0  # seconds that a turn waits for Headscale, which may take fifteen
REPAIR_FILE = "mesh-repair"


MakeProbe = Callable[[GiveAnswer, HeardHint], Prober]


@dataclass(frozen=True, slots=True)
class Needs:
    """Of the daemon."""

    config: Callable[[], Config]
    wanted: Callable[[], frozenset[Network]]  # what is to be announced now
    in_use: Callable[[], frozenset[Network]]  # pools that pods have addresses of
    publish: Callable[[View], None]
    forward_drops: Callable[[], bool | None]  # blocking
    gaps: Callable[[], tuple[Problem, ...]]  # in fence and guard


class Mesh:
    def __init__(
        self, out: Outside, needs: Needs, store: Store, looker: Looker, make_probe: MakeProbe, seed: str
    ) -> None:
        config = needs.config()
        self._out = out
        self._needs = needs
        self._store = store
        self._looker = looker
        self._actor = Actor(out, store, looker, needs.config)
        self._repair = Repair(config.mesh_approval, self._cluster, config.repair_preferences)
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._hearing = asyncio.Event()
        self._chains: dict[Network, Chain] = {}
        self._device_index = 0
        self._listed_at = self._filter_at = float("-inf")
        self._asked_to_repair = False
        self._tasks: asyncio.TaskGroup
        self._asking: asyncio.Task[None] | None = None  # Headscale
        self.witness = Witness(looker, self._own, self._cluster, self.now, self.now, seed)
        self._picture = Picture(self.witness, self._cluster)
        self._probe = make_probe(self.witness.answer, self.witness.heard_hint)
        self.witness.use(self._probe)

    def _cluster(self) -> tuple[Network, ...]:
        """As it is now: the API may know better than the files that the node was started with."""
        return self._needs.config().cluster_cidrs

    def _own(self) -> tuple[Network, ...]:
        return in_order(self._wanted())

    def _wanted(self) -> frozenset[Network]:
        """An earlier pod CIDR is withdrawn when the last pod of it is gone."""
        wanted = self._needs.wanted()
        earlier = self._actor.ours - wanted
        return wanted | (earlier & self._needs.in_use()) if earlier else wanted

    def soon(self) -> None:
        self._wake.set()

    def now(self) -> None:
        """Something happened to this node itself."""
        self._urgent.set()
        self._wake.set()

    # --- tasks

    async def run(self) -> None:
        self._actor.load()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._hear())
            tasks.create_task(self.witness.run())
            tasks.create_task(self._obey())
            tasks.create_task(self._turns())

    async def _hear(self) -> None:
        async for notice in self._out.tailscaled.watch():
            for routes in notice.written:
                self._actor.heard_routes(routes)
            if notice.error:
                self._actor.login_error = notice.error
            if notice.reconnected:
                self._hearing.set()
                self._looker.doubt()
                self._repair.news(self._looker.now())
                self.now()
            elif notice.about_me and not self._looker.refreshing:
                self._about_me()
            elif notice.written:
                self.now()
            else:
                self.soon()

    def _about_me(self) -> None:
        """Every node is told so when anything is approved for anybody. So the witnesses are asked, which costs
        Headscale nothing; only without any is there a reason to doubt."""
        if not self.witness.ask_now():
            self._looker.doubt()
            self._repair.news(self._looker.now())
        self.soon()

    async def _obey(self) -> None:
        """`headcni mesh repair` leaves a file."""
        path = self._store.root / REPAIR_FILE
        while True:
            if path.exists() and not self._asked_to_repair:
                self._asked_to_repair = True
                log.info("mesh: an operator asks for repair: budgets and fights begin anew")
                self._repair.reset()
                self._actor.reset()
                self._looker.doubt()
                self.now()
            await asyncio.sleep(1.0)

    async def _turns(self) -> None:
        await set_within(self._hearing, HEAR_SECONDS)  # who writes along with our first write is told of by the bus
        while True:
            began = time.thread_time()
            self._wake.clear()
            self._urgent.clear()
            await self._turn()
            await self._rest(time.thread_time() - began)

    async def _rest(self, cost: float) -> None:
        """At least a little, in any case; then until something happens."""
        least = min(LONGEST_URGENT, max(SHORTEST, URGENT_REST * cost))
        await asyncio.sleep(least)
        if not await set_within(self._urgent, max(SHORTEST, REST_FOR_WORK * cost - least)):
            await set_within(self._wake, UNEASY if self._uneasy() else RELIST)

    def _uneasy(self) -> bool:
        whole = all(chain.in_force for chain in self._chains.values())
        return not whole or self._looker.mute or bool(self._repair.needed) or self._actor.failing

    # --- one turn

    async def _turn(self) -> None:
        asked = self._asked_to_repair
        wanted = self._wanted()
        await self._looker.tailscale()
        await self._look_at_filter()
        unjoined = await self._actor.be_member()
        joined = unjoined is None
        self._looker.unjoined = None if self._looker.mute else unjoined
        self._looker.settling = self._actor.settling
        if self._looker.unjoined is not None:
            self._looker.forget()
        if joined or self._stopped(unjoined):
            await self._actor.set_preferences()
        if joined:
            await self._actor.keep_announced(wanted)
            await self._list_nodes()
        self._notice_restart()
        self.witness.peers_changed()
        self.witness.hint_who_looks_different()
        self._listen()
        seen = self._judge()
        self._repair.waiting = self._asking is not None and not self._asking.done()
        mends = self._repair.plan(seen, tuple(self._chains.values()))
        self._actor.keep_only(self._repair.needed)
        self._publish(seen)
        for mend in mends:
            await self._mend(mend, wanted)
        if mends:
            self._publish(self._judge())
            self._urgent.set()  # what came of it is looked at at once
        self.witness.schedule.hurry(self._uneasy())
        if asked:  # whoever asked waits for the file to go
            self._asked_to_repair = False
            self._store.remove(REPAIR_FILE)

    def _stopped(self, unjoined: Refusal | None) -> bool:
        """At our control server, so it is a preference like any other."""
        stopped = unjoined is not None and unjoined.code == Trouble.MESH_STOPPED
        return stopped and bool(self._needs.config().headscale_url)

    async def _look_at_filter(self) -> None:
        prefs, now = self._looker.prefs, self._looker.now()
        if not isinstance(prefs, Prefs) or prefs.raw.get("NetfilterMode") == 2 or now - self._filter_at < FILTER_EVERY:
            return
        self._filter_at = now
        self._looker.forward_drops = await asyncio.to_thread(self._needs.forward_drops)

    async def _list_nodes(self) -> None:
        if self._out.headscale is None:
            return
        control = self._looker.control
        if control is None:
            self._listed_at = float("-inf")
        every = LIST_EVERY + LIST_FOR_EACH_NODE * (len(control) if isinstance(control, tuple) else 0)
        if self._uneasy() or self._looker.doubted_at > self._looker.control_at:
            every = LIST_UNEASY
        if self._looker.now() - self._listed_at < every:
            return
        self._listed_at = self._looker.now()
        await self._beside(self._looker.headscale(self._out.headscale))

    async def _mend(self, mend: Mend, wanted: frozenset[Network]) -> None:
        work = self._actor.mend(mend, wanted)
        asks_headscale = mend.act is Act.APPROVE or (mend.act is Act.REANNOUNCE and self._out.headscale is not None)
        await (self._beside(work) if asks_headscale else work)

    async def _beside(self, asking: Coroutine[Any, Any, None]) -> None:
        """Whatever Headscale does, turns go on; what it says in the end is looked at then. One at a time."""
        if self._asking is not None and not self._asking.done():
            asking.close()
            return
        self._asking = self._tasks.create_task(asking)
        _, late = await asyncio.wait([self._asking], timeout=MOMENT)
        if late:
            self._asking.add_done_callback(lambda _: self.now())

    def _notice_restart(self) -> None:
        """tailscaled makes its interface anew each time; sessions that others believe alive are mended by traffic."""
        device = self._looker.kernel.device
        index = device.index if device else 0
        if index and index != self._device_index:
            if self._device_index:
                self._looker.doubt()
            self.witness.schedule.restarted(self._looker.now())
        self._device_index = index or self._device_index

    def _listen(self) -> None:
        tailnet = self._looker.tailnet
        if isinstance(tailnet, Tailnet):
            deaf = self._probe.set_addresses([*tailnet.me.addresses, *self.witness.gateways()])
            self._actor.note("probe", deaf[0] if deaf else None)

    def _judge(self) -> Seen:
        self._looker.deliveries = self.witness.deliveries()
        seen = self._looker.seen()
        cure = self._approval_cure()
        self._chains = {each: judge(each, seen, self._chains.get(each), cure) for each in self._own()}
        return seen

    def _publish(self, seen: Seen) -> None:
        chains = tuple(self._chains.values())
        view = self._picture.of(seen, chains, self._actor, self._needs.gaps(), self._needs.config().mtu)
        self._needs.publish(view)

    async def look_at_kernel(self) -> None:
        """What tailscaled does not tell of: a route, or the MTU, that was changed by hand."""
        tailnet = self._looker.tailnet
        if isinstance(tailnet, Tailnet) and await self._looker.kernel_changed(tailnet.me.addresses):
            self.soon()

    def _approval_cure(self) -> str:
        config = self._needs.config()
        if config.mesh_approval == "approver":
            return "see that `headcni approver` runs, and that its list has this node with this pod CIDR"
        if config.mesh_approval == "key":
            return "the daemon approves it with its API key; see the other findings if it cannot"
        tailnet = self._looker.tailnet
        owner = (tailnet.owner if isinstance(tailnet, Tailnet) else "") or "USER@"
        policy = " ".join(snippet(config.cluster_cidrs, owner, Generation.APPROVALS).split())
        return f"add to Headscale's policy (`headcni mesh policy` prints it): {policy}"
