"""What one node needs once, whatever number of pods: fence and guard, forwarding, masquerade, the ways to other nodes.

Each part is made so, can be asked what is not so, and can be undone; the parts know nothing of each other, so a node
without nftables still has its routes. Fence and guard come first and go last: at no time is a pod's packet free to
leave the node in clear, or led away from a pod of this node. Nothing here raises because the node is in a bad state:
what could not be done is a `Problem`, in words, for readiness and the operator, and the caller tries again.

These are blocking calls, of a millisecond where nft has no part in them and of some more where it has; call them from
a worker thread. One at a time: a lock sees to it. Undoing needs no wish and no memory, so that `uninstall` works
without the daemon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

from reconciler.ipam.pool import Network
from reconciler.node import foreign
from reconciler.node.fence import Fence
from reconciler.node.gateways import Gateways
from reconciler.node.guard import Guard
from reconciler.node.routes import StaticRoutes
from reconciler.node.sysctl import PROC_SYS, Sysctls
from reconciler.node.table import Nft, Table, run_nft
from reconciler.node.wish import HostWish, Problem


class Host:
    def __init__(
        self, state_dir: Path, *, proc_sys: Path = PROC_SYS, table: str = "headcni", nft: Nft = run_nft
    ) -> None:
        self._fence = Fence()
        self._guard = Guard()
        self._gateways = Gateways()
        self._sysctls = Sysctls(state_dir, proc_sys)
        self._table = Table(table, nft)
        self._routes = StaticRoutes()
        self._wish = HostWish(pod_cidrs=())
        self._pods: frozenset[Network] = frozenset()  # replaced, never changed: another thread may be reading it
        self._served: frozenset[Network] = frozenset()  # pools that pods got addresses of, for the life of the daemon
        self._foreign = foreign.ForeignAddresses()
        self._foreign_at = float("-inf")
        self._turn = threading.Lock()

    def close_the_way_out(self, wish: HostWish | None = None) -> tuple[Problem, ...]:
        """Fence and guard alone, within a millisecond or two: before the first pod is wired, and again whenever
        `fence_problems` has something to say. What is still not as wished."""
        with self._turn:
            self._take(wish or self._wish)
            self._close()
            return self._gaps()

    def fence_problems(self) -> tuple[Problem, ...]:
        """Of fence and guard; `kernelnews.py` says when a look is worth it."""
        with self._turn:
            return self._gaps()

    def prepare(self, wish: HostWish) -> tuple[str, ...]:
        """Makes it so; what was changed, in words. What could not be is in `problems()`."""
        with self._turn:
            self._take(wish)
            return (
                *self._close(),
                *self._gateways.write(wish.gateways),
                *self._sysctls.prepare(wish.ipv6),
                *self._write_table(),
                *self._routes.write(wish.static_routes),
            )

    def repair(self) -> tuple[str, ...]:
        """The same again, for when there are problems; what was changed."""
        return self.prepare(self._wish)

    def problems(self) -> tuple[Problem, ...]:
        with self._turn:
            return (
                *self._gaps(),
                *self._gateways.problems(self._wish.gateways),
                *self._sysctls.problems(self._wish.ipv6),
                *self._table.problems(),
                *self._routes.problems(self._wish.static_routes),
            )

    def ensure_pod_cidrs(self, cidrs: Iterable[Network]) -> tuple[str, ...]:
        """Pools of a pod, which a network configuration may have brought; free of cost once they are known."""
        pools = frozenset(cidrs)
        if pools <= self._served:
            return ()
        with self._turn:
            self._served |= pools
            if pools <= self._pods:
                return ()
            self._pods |= pools
            return self._guard.write(self._guarded()) + self._write_table()

    def keep_static_routes(self) -> tuple[Problem, ...]:
        """Puts back those that are missing; what is still not as wished, and nothing where all is."""
        with self._turn:
            self._routes.write(self._wish.static_routes)
            return self._routes.problems(self._wish.static_routes)

    def foreign_addresses(self, max_age: float = 1.0) -> foreign.ForeignAddresses:
        """Under a millisecond, and once a second in a burst of ADDs: others do not wait for our answer anyway."""
        now = time.monotonic()
        if now - self._foreign_at >= max_age:
            found, self._foreign_at = foreign.read(self._pods), now
            if found != self._foreign:  # the same object while nothing changed: whoever compares, compares it fast
                self._foreign = found
        return self._foreign

    def restore(self) -> tuple[str | Problem, ...]:
        """Uninstall: the node as it was before us, but for what others changed since. What was done, and what could not
        be; each part is undone whatever became of the others."""
        with self._turn:
            return (
                *self._routes.restore(),
                *self._gateways.restore(),
                *self._table.delete(),
                *self._sysctls.restore(),
                *self._guard.restore(),
                *self._fence.restore(),
            )

    def _take(self, wish: HostWish) -> None:
        """A pool that nobody was served from, such as a guess that was put right, is not this node's any more."""
        self._wish = wish
        self._pods = self._served.union(wish.pod_cidrs)

    def _close(self) -> tuple[str, ...]:
        return self._fence.write(self._wish.fence) + self._guard.write(self._guarded())

    def _gaps(self) -> tuple[Problem, ...]:
        return self._fence.problems(self._wish.fence, self._pods) + self._guard.problems(self._guarded())

    def _guarded(self) -> tuple[Network, ...]:
        return (*self._wish.guard, *sorted(self._pods, key=str)) if self._wish.guard else ()

    def _write_table(self) -> tuple[str, ...]:
        return self._table.write(self._pods, self._wish.cluster_cidrs, self._wish.masquerade)
