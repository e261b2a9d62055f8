"""Looking: what tailscaled, Headscale, the kernel and the witnesses said last, kept together as one `Seen`.

Each source is asked when its turn comes and keeps its last answer and the time of it; `seen()` puts them together and
costs nothing. A failed look is kept as the refusal it was, because that is what is to be shown.

`Index` answers what a witness is asked most: who of the tailnet is sent a prefix. It is made anew only where an answer
of tailscaled says something else than the last, so being asked is cheap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.controlurl import normal
from reconciler.mesh.model import ControlNode, KernelView, Peer, Prefs, Report, Sight, Tailnet
from reconciler.mesh.networks import gateway
from reconciler.mesh.ports import Headscale, MeshKernel, Tailscaled
from reconciler.mesh.reach import reachable
from reconciler.mesh.verify import Delivery, Seen
from reconciler.ports import Clock
from reconciler.settings import IpAddress, Network

REFRESH_SECONDS = 1.5  # until a refreshed map is there; measured: 1.2
LONGEST_REFRESH = 4.0  # where the control server takes its time
LOOK_SECONDS = 0.25
ECHOES = 1.5  # seconds after the map, in which the bus still tells of it


@dataclass(frozen=True, slots=True)
class Index:
    """The last status, turned over."""

    by_address: Mapping[IpAddress, Peer]
    by_route: Mapping[Network, Peer]
    by_gateway: Mapping[IpAddress, Peer]  # of pod ranges, and of whatever else it has routes to
    peers: Mapping[str, Peer]  # that it was made of

    @classmethod
    def of(cls, tailnet: Tailnet) -> Index:
        peers = tailnet.peers.values()
        return cls(
            {address: peer for peer in peers for address in peer.addresses},
            {route: peer for peer in peers for route in peer.routes},
            {gateway(route): peer for peer in peers for route in peer.routes},
            tailnet.peers,
        )

    def fits(self, tailnet: Tailnet) -> bool:
        """Where only who is online and by which path has changed, which is not looked up here."""
        if self.peers.keys() != tailnet.peers.keys():
            return False
        pairs = ((before, tailnet.peers[key]) for key, before in self.peers.items())
        return all(before is now or _as_told(before) == _as_told(now) for before, now in pairs)

    def who_is(self, source: IpAddress) -> Peer | None:
        """A node of the tailnet by its own address, or by the gateway address of its pod range; nobody else."""
        return self.by_address.get(source) or self.by_gateway.get(source)


def _as_told(peer: Peer) -> tuple[object, ...]:
    return peer.name, peer.addresses, peer.routes


class Looker:
    def __init__(self, clock: Clock, tailscaled: Tailscaled, kernel: MeshKernel) -> None:
        self._clock = clock
        self._tailscaled = tailscaled
        self._kernel = kernel
        self._waiting = Refusal(0, "not looked yet", "")
        self.tailnet: Tailnet | Refusal = self._waiting
        self.prefs: Prefs | Refusal = self._waiting
        self.kernel = KernelView()
        self.index = Index({}, {}, {}, {})
        self.control: tuple[ControlNode, ...] | Refusal | None = None
        self.control_at = float("-inf")
        self.reports: dict[str, Report] = {}
        self.deliveries: Mapping[Network, tuple[Delivery, ...]] = {}
        self.unjoined: Refusal | None = None
        self.settling = False
        self._online_at = self._looked_at = self.now()
        self.doubted_at = float("-inf")
        self._refreshed: tuple[float, frozenset[Network]] | None = None
        self._refreshing_until = float("-inf")
        self.forward_drops: bool | None = None

    def now(self) -> float:
        return self._clock.mono_ns() / 1e9

    def wall(self) -> float:
        return self._clock.wall()

    def doubt(self) -> None:
        """What was known of this node's standing may be over."""
        self.doubted_at = self.now()

    def forget(self) -> None:
        """What was known of another membership than the present one is of no use, not even until there is better."""
        self.reports.clear()
        self.control, self.control_at = None, float("-inf")
        self._refreshed = None

    def doubt_before(self, at: float) -> None:
        """Only what was known before is doubted: what was heard at that time is the news."""
        self.doubted_at = max(self.doubted_at, at - 0.001)

    async def tailscale(self) -> None:
        self.tailnet = await self._tailscaled.status()
        self._looked_at = self.now()
        if isinstance(self.tailnet, Tailnet):
            if not self.index.fits(self.tailnet):
                self.index = Index.of(self.tailnet)
            if self.tailnet.me.online or not self.tailnet.running:
                self._online_at = self._looked_at
            self.prefs = await self._tailscaled.prefs()
            addresses = self.tailnet.me.addresses
        else:
            self.prefs = self.tailnet
            addresses = ()
        self.kernel = await asyncio.to_thread(self._kernel.look, addresses)

    async def kernel_changed(self, addresses: Sequence[IpAddress]) -> bool:
        return await asyncio.to_thread(self._kernel.look, addresses) != self.kernel

    @property
    def mute(self) -> bool:
        """tailscaled did not answer, which says nothing of this node's membership."""
        return isinstance(self.tailnet, Refusal) or isinstance(self.prefs, Refusal)

    async def headscale(self, headscale: Headscale | None) -> None:
        asked_at = self.now()  # what the answer says was so at this time or later
        self.control = await headscale.nodes() if headscale else None
        if isinstance(self.control, tuple):
            self.control_at = asked_at

    async def refresh(self) -> Refusal | None:
        """Makes tailscaled ask for the whole map, and reads what that says of this node."""
        url = self.prefs.control_url if isinstance(self.prefs, Prefs) else ""
        if not await reachable(url):
            cure = "see that it runs and can be reached from this node; do not restart tailscaled meanwhile"
            return Refusal(Trouble.CONTROL_LOST, f"the control server {normal(url)} cannot be reached", cure)
        self._refreshing_until = self.now() + LONGEST_REFRESH + ECHOES
        refusal = await self._tailscaled.start()
        if refusal is not None:
            return refusal
        asked_at = self.now()
        while not self._answered(self.now() - asked_at):
            await asyncio.sleep(LOOK_SECONDS)
            await self.tailscale()
        seen = self.tailnet
        if isinstance(seen, Tailnet) and seen.running and seen.me.online:
            self._refreshed = asked_at, seen.me.primary
        self._refreshing_until = self.now() + ECHOES
        return None

    def _answered(self, waited: float) -> bool:
        """The new map is there, which takes its time; or the control server does not know this node, and none comes."""
        seen = self.tailnet
        if isinstance(seen, Tailnet) and seen.auth_url:
            return True
        return waited >= REFRESH_SECONDS and (
            waited >= LONGEST_REFRESH or (isinstance(seen, Tailnet) and seen.me.online)
        )

    @property
    def refreshing(self) -> bool:
        """What the bus tells of this node now, we caused."""
        return self.now() < self._refreshing_until

    def seen(self) -> Seen:
        return Seen(
            at=self.now(),
            wall=self._clock.wall(),
            tailnet=self.tailnet,
            prefs=self.prefs,
            kernel=replace(self.kernel, forward_drops=self.forward_drops),
            unjoined=self.unjoined,
            settling=self.settling,
            offline_for=self._looked_at - self._online_at if isinstance(self.tailnet, Tailnet) else 0.0,
            doubted_at=self.doubted_at,
            control=self.control,
            control_at=self.control_at,
            reports=self.reports,
            refreshed_primary=self._refreshed[1] if self._refreshed else None,
            refreshed_at=self._refreshed[0] if self._refreshed else float("-inf"),
            deliveries=self.deliveries,
        )

    # --- being a witness

    def sight(self, peer: Peer, prefix: Network) -> Sight:
        holder = self.index.by_route.get(prefix)
        accepted = prefix in peer.routes
        instead = holder.name if holder is not None and not accepted else ""
        return Sight(accepted, prefix in self.kernel.routed, instead)


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
