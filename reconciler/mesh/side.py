"""What the daemon has of the mesh: the advertiser for its engine, the loop beside it, and what both tell.

The daemon starts it and asks it; nothing that happens in here can stop or delay a pod. Before the loop has looked for
the first time, pods are "not yet" advertised, and their MTU is that of the interface that is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.mesh.advertiser import MeshAdvertiser, hosts
from reconciler.mesh.loop import Mesh, Needs
from reconciler.mesh.model import Chain, Device, View
from reconciler.mesh.mover import Mover
from reconciler.mesh.networks import gateway
from reconciler.mesh.ports import MeshFence
from reconciler.mesh.viewfile import FILE, encode_view, summary
from reconciler.node.kernelnews import KernelNews
from reconciler.node.meshlink import MeshLink, forward_drops
from reconciler.node.wish import HostWish, Problem
from reconciler.observe import Observer
from reconciler.ports import Clock
from reconciler.settings import IpAddress, Network
from reconciler.store import Store
from statemachine.attachment import Attachment, State
from statemachine.machine import Event

log = logging.getLogger("headcni")

FENCE_SECONDS = 1.0
FENCE_ANYWAY = 5.0  # without any news of the kernel's
TEND_SECONDS = 1.0
RENEW_SECONDS = 20.0
LIVE = (State.ALLOCATED, State.WIRED, State.ADVERTISED)


class MeshSide:
    def __init__(
        self,
        config: Callable[[], Config],
        store: Store,
        host: MeshFence,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._config = config
        self._store = store
        self._host = host
        self._clock = clock
        self._observer = observer
        self._link = MeshLink()
        self._device: Device | None = None
        self._mesh: Mesh | None = None
        self._records: Callable[[], Mapping[str, Attachment]] = dict
        self._mover: Mover | None = None
        self._changed: Callable[[], None] = lambda: None
        self._summary: Mapping[str, Any] = {}
        self._written: View | None = None
        self._gaps: tuple[Problem, ...] = ()
        self.advertiser = MeshAdvertiser(self._attachments_changed)

    def attend(
        self,
        records: Callable[[], Mapping[str, Attachment]],
        post: Callable[[str, Event], None],
        changed: Callable[[], None],
    ) -> None:
        """The engine's side: its records, how to tell one of them something, and that `summary` has changed."""
        self._records = records
        self._mover = Mover(self.advertiser, records, post)
        self._changed = changed

    # --- for the daemon

    def summary(self) -> Mapping[str, Any]:
        return self._summary

    def mtu(self) -> int:
        """Of the mesh's interface; 0: there is none."""
        if self._device is None:
            self._device = self._link.look(()).device
        return self._device.mtu if self._device else 0

    def fenced(self, wish: HostWish) -> HostWish:
        """With what keeps pod packets inside the mesh, and local ones on the node."""
        config = self._config()
        return replace(
            wish,
            fence=tuple(dict.fromkeys((*config.cluster_cidrs, *wish.pod_cidrs))) if config.fail_closed else (),
            guard=(*config.pod_cidrs, *config.service_cidrs, *config.guard),
            gateways=self._gateways(),
        )

    def _gateways(self) -> tuple[IpAddress, ...]:
        """Not what a pod has: a pool with another gateway may have given it away."""
        given = {each.ip for record in self._records().values() for each in record.addresses}
        return tuple([each for each in map(gateway, self._config().pod_cidrs) if each not in given])

    # --- tasks

    @property
    def tasks(self) -> tuple[tuple[str, Callable[[], Awaitable[None]]], ...]:
        """Apart, so that a fault in one stops no other."""
        return (("mesh", self.run), ("fence", self.watch), ("tend", self.tend))

    async def run(self) -> None:
        from reconciler.mesh import assemble  # late: see there

        needs = Needs(self._config, self._wanted, self._in_use, self._publish, forward_drops, lambda: self._gaps)
        try:
            await assemble.run(needs, self._store, self._clock, self._link, self._observer, self._made)
        finally:
            self._mesh = self.advertiser.chains = None  # what was concluded is not known any more

    def _made(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def watch(self) -> None:
        """The fence keeps packets from leaving in clear, so it is looked at within a second of any change, and each
        second while it is not whole."""
        looked_at = float("-inf")
        with closing(KernelNews()) as news:
            while True:
                now = self._clock.mono_ns() / 1e9
                if news.heard() or self._gaps or now - looked_at >= FENCE_ANYWAY:
                    looked_at = now
                    await self._look_at_fence()
                await asyncio.sleep(FENCE_SECONDS)

    async def _look_at_fence(self) -> None:
        gaps = await self._close() if await asyncio.to_thread(self._host.fence_problems) else ()
        for problem in gaps:
            if problem not in self._gaps:
                log.warning("mesh: %s", problem)
        self._gaps = gaps

    async def tend(self) -> None:
        """What tailscaled does not tell of: the time that something is hidden, a route or an MTU that was changed by
        hand. Without any news the turns of the loop look often enough."""
        with closing(KernelNews()) as news:
            while True:
                if self._mover is not None:
                    self._mover.look(self._clock.mono_ns() / 1e9)
                if self._mesh is not None and news.heard():
                    await self._mesh.look_at_kernel()
                await asyncio.sleep(TEND_SECONDS)

    async def _close(self) -> tuple[Problem, ...]:
        """Puts back what is missing; what is still wrong."""
        left = await asyncio.to_thread(self._host.close_the_way_out)
        if not left:
            log.warning("mesh: put back what keeps pod packets in the mesh: somebody had removed it")
        return left

    # --- for the loop

    def _wanted(self) -> frozenset[Network]:
        config = self._config()
        if config.mesh_advertise == "node":
            return frozenset(config.pod_cidrs)
        live = [record for record in self._records().values() if record.state in LIVE]
        return frozenset(host for record in live for host in hosts(record))

    def _in_use(self) -> frozenset[Network]:
        """Pools that pods have addresses of; one of an earlier pod CIDR stays announced as long as it is among them."""
        pools = {each.pool for record in self._records().values() for each in record.addresses}
        return frozenset(map(ip_network, pools))

    def _news_in(self, view: View) -> bool:
        """A view of a large tailnet is half a megabyte: it is written when it differs, and now and then as a sign of
        life."""
        last = self._written
        if last is None or view.written - last.written > RENEW_SECONDS:
            return True
        return replace(view, written=last.written) != last

    def _attachments_changed(self) -> None:
        if self._mesh is not None and self._config().mesh_advertise == "pod":
            self._mesh.soon()

    def _publish(self, view: View) -> None:
        before, self._device = self._device, view.device or self._device
        if before is not None and view.device is not None and before.mtu != view.device.mtu:
            log.info("mesh: MTU of %s: %d -> %d; new pods get it", view.device.name, before.mtu, view.device.mtu)
        if self._news_in(view):
            self._written = view
            self._store.write(FILE, encode_view(view))
        before_that, self._summary = self._summary, summary(view)
        if {**before_that, "seen": 0} != {**self._summary, "seen": 0}:  # or the status would be written with each look
            self._changed()
        if self.advertiser.chains is None or _standing(self.advertiser.chains) != _standing(view.chains):
            self.advertiser.chains = view.chains
            if self._mover is not None:
                self._mover.look(self._clock.mono_ns() / 1e9)


def _standing(chains: Iterable[Chain]) -> list[tuple[Network, bool, Refusal | None]]:
    """What attachments are judged by. Their evidence has the last round trip in it, which is another each time."""
    return [(chain.prefix, chain.in_force, chain.missing) for chain in chains]
