"""What the daemon says of itself: `status.json` for STATUS, operators and probes, and the HTTP endpoint.

STATUS reads the file and wakes nobody, so the file must be right within a second of a change, and must not be written
when nothing changed: at rest it is renewed every ten seconds, to show that its writer is alive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from cni import plugin
from cni.spec import Code
from reconciler.config import Config
from reconciler.desk import Desk
from reconciler.ipam.ledger import Ledger
from reconciler.ipam.pool import PoolSpec
from reconciler.ipam.stock import PoolStats
from reconciler.node.clash import Ranges, ranges
from reconciler.node.host import Host
from reconciler.node.lookout import Lookout
from reconciler.node.wish import Problem
from reconciler.operate.log import Once
from reconciler.operate.status import NotReady, Status, encode_status
from reconciler.settings import Network
from reconciler.store import Store

log = logging.getLogger("headcni")

LOOK_SECONDS = 0.5
RENEW_SECONDS = 10.0
PROBLEMS_SECONDS = 10.0


class Reporter:
    def __init__(
        self,
        config: Config,
        store: Store,
        desk: Desk,
        ledger: Ledger,
        host: Host,
        warnings: Once,
        boot_id: str,
        mesh: Callable[[], Mapping[str, Any]] = dict,
        pod_cidr: Callable[[], Mapping[str, Any]] = dict,
        kube: Callable[[], Mapping[str, Any]] = dict,
        others: Callable[[], Mapping[Network, str]] = dict,
    ) -> None:
        self.config = config
        self._store = store
        self._desk = desk
        self._ledger = ledger
        self._host = host
        self._warnings = warnings
        self._boot_id = boot_id
        self._mesh = mesh
        self._pod_cidr = pod_cidr
        self._kube = kube
        self._others = others
        self._started = time.time()
        self._stopping = False
        self._lookout = Lookout(warnings, self.changed)
        self._host_problems: list[NotReady] = []
        self._delegate_problems: list[NotReady] = []
        self._beat = time.monotonic()
        self.latest: Status | None = None  # what was last written; finished, so that other threads may read it

    async def look(self) -> None:
        """At what may take its time to answer; so not in the loop that beats."""
        while True:
            await self.look_at_host()
            await self.look_at_delegates()
            await self._lookout.neighbours(self._ranges(), self.config.node_root, str(self.config.cni_conf_dir))
            await asyncio.sleep(PROBLEMS_SECONDS)

    async def loop(self) -> None:
        written = float("-inf")
        while True:
            self._beat = now = time.monotonic()
            if self._desk.dirty or now - written >= RENEW_SECONDS:
                written = now
                self.write()
            await asyncio.sleep(LOOK_SECONDS)

    def changed(self) -> None:
        """What the status shows is not so any more."""
        self._desk.dirty = True

    @property
    def ready(self) -> bool:
        """As it was last said."""
        return self.latest is not None and self.latest.ready

    def latest_status(self) -> dict[str, Any]:
        return asdict(self.latest) if self.latest else {}

    def beat_age(self) -> float:
        """Seconds since the event loop last came by: its pulse, for /healthz."""
        return time.monotonic() - self._beat

    async def look_at_host(self) -> None:
        problems = await asyncio.to_thread(self._mend_host) + await self._lookout.overlaps(self._ranges())
        found = [NotReady(problem.what, problem.cure) for problem in problems]
        if found != self._host_problems:
            self._host_problems = found
            self._desk.dirty = True

    async def look_at_delegates(self) -> None:
        found = [NotReady(refusal.msg, refusal.details) for refusal in await self._desk.delegates_refusing()]
        if found != self._delegate_problems:
            self._delegate_problems = found
            self._desk.dirty = True

    def _ranges(self) -> Ranges:
        config = self.config
        return ranges(
            *(config.pod_cidrs, config.cluster_cidrs, config.service_cidrs, config.mesh_mode == "tailscale"),
            self._desk.records.values(),
            self._others(),
        )

    def _mend_host(self) -> tuple[Problem, ...]:
        """What somebody took away from the node's plumbing is put back; what cannot be is told."""
        problems = self._host.problems()
        if not problems:
            return ()
        for change in self._host.repair():
            log.warning("node: put back: %s", change)
        return self._host.problems()

    def write(self) -> None:
        self._desk.dirty = False
        self.latest = self.status()
        no_space = self._store.write("status.json", encode_status(self.latest))
        if no_space is not None:
            self._warnings.warn("no space", f"{no_space.path} could not be written: {no_space.reason}")
        elif self._warnings.clear("no space"):
            self._desk.dirty = True

    def stopped(self) -> None:
        self._stopping = True
        self.write()

    def status(self) -> Status:
        unable = self._unable()
        reasons = [*unable, *self._host_problems]
        return Status(
            ready=not reasons,
            cni_code=int(Code.UNAVAILABLE) if unable else 0,
            cni_msg=unable[0].what if unable else "",
            cni_details="; ".join(reason.cure for reason in unable),
            version=plugin.VERSION.decode(),
            pid=os.getpid(),
            boot_id=self._boot_id,
            started=self._started,
            written=time.time(),
            cni_beat=time.monotonic_ns(),
            not_ready=tuple(reasons),
            warnings=tuple(self._warnings.said),
            counts=dict(self._desk.states()),
            pools=tuple(_pool(pool) for pool in self._ledger.stats()),
            quarantined=self._store.quarantined(),
            mesh={
                "mode": self.config.mesh_mode,
                "static_routes": [str(route) for route in self.config.static_routes],
                "socket": str(self.config.tailscale_socket),
                "cluster_cidrs": [str(cidr) for cidr in self.config.cluster_cidrs],
                **self._mesh(),
            },
            pod_cidrs=tuple(str(cidr) for cidr in self.config.pod_cidrs),
            pod_cidr_source=self._pod_cidr(),
            kube=self._kube(),
        )

    def _unable(self) -> list[NotReady]:
        """Why an ADD cannot be served now. (What is wrong with the node besides makes it not ready, but ADDs work.)"""
        reasons = list(self._delegate_problems)
        if self._stopping:
            reasons.append(NotReady("the daemon has stopped", "start it"))
        free: Counter[str] = Counter()
        for pool in self._ledger.stats():  # a changed range makes another pool of the same subnet
            free[str(pool.subnet)] += pool.free + pool.cooling
        own = {str(cidr) for cidr in self.config.pod_cidrs}
        if not own and not free:
            cure = "set network.podCIDR.nodeLocal; `headcni podcidr` shows where one was looked for"
            reasons.append(NotReady("this node has no pod CIDR", cure))
        unasked = self._ledger.unasked([PoolSpec(cidr) for cidr in self.config.pod_cidrs])
        free.update({str(pool.subnet): 0 for pool in unasked if not pool.free + pool.cooling})
        empty = [subnet for subnet, left in free.items() if left <= 0]
        cure = "delete pods, or give the node a larger subnet; `headcni pods` shows who holds what"
        # One of several networks may be full without keeping pods off the node.
        telling = [subnet for subnet in empty if subnet in own or len(empty) == len(free)]
        return [*reasons, *[NotReady(f"pool {subnet} is empty", cure) for subnet in telling]]


def _pool(pool: PoolStats) -> dict[str, Any]:
    return {name: _plain(getattr(pool, name)) for name in PoolStats.__slots__}


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [str(each) for each in value]
    return value if isinstance(value, int) else str(value)
