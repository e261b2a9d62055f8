"""The guard: packets for this node's own addresses are led by the main table, whatever the mesh has accepted.

tailscaled's rule (5270) comes before the main table's, and its table wins even against a pod's own /32. So when any
other node announces a prefix that covers ours (a whole cluster's, a twin's after a failover, a stale node's), the pods
of this node vanish into the mesh, for the node itself, too. Rules `to CIDR lookup main` of a better preference keep
them; tailscaled leaves those alone through every restart.

A rule that finds nothing in the main table lets the next rule try. That is where the fence stands: an address of ours
that no pod has is unreachable, and not the mesh's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.ipam.pool import Network
from reconciler.node import dump, requests
from reconciler.node.dump import Rule
from reconciler.node.kept import Change, Kept, change
from reconciler.node.requests import GUARD_PREFERENCE
from reconciler.node.wish import Problem
from reconciler.wiring import codec as nl
from reconciler.wiring.requests import ROUTE_PROTOCOL


def plan(wished: Iterable[Network], present: Sequence[Rule]) -> Change[Network]:
    """Pure."""
    alike = [
        (rule.dst, rule.protocol)
        for rule in present
        if rule.plain and rule.preference == GUARD_PREFERENCE and rule.table == nl.RT_TABLE_MAIN
    ]
    ours = {dst for dst, protocol in alike if protocol == ROUTE_PROTOCOL}
    return change(wished, ours, {dst for dst, _ in alike} - ours)


class Guard:
    def __init__(self) -> None:
        self._kept = Kept(requests.guard)

    def write(self, wished: Iterable[Network]) -> tuple[str, ...]:
        return self._kept.write(plan(wished, dump.rules()))

    def problems(self, wished: Iterable[Network]) -> tuple[Problem, ...]:
        return self._kept.problems(plan(wished, dump.rules()))

    def restore(self) -> tuple[str | Problem, ...]:
        return self._kept.restore(plan((), dump.rules()))
