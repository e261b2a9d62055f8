"""The node's own address in each of its pod ranges, on `lo`, so that the node answers there before it has a pod.

It is the pools' gateway, which every pod's link carries on the node's side as well: two that do not know of each
other, so links come and go without it. By it nodes prove to each other that packets of pod ranges are delivered.

On `lo` an address attracts traffic that has no other source; `requests.gateway` says how that is kept away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.ipam.pool import Address
from reconciler.node import dump, requests
from reconciler.node.dump import LinkAddress
from reconciler.node.kept import Change, Kept, change
from reconciler.node.wish import Problem


def plan(wished: Iterable[Address], present: Sequence[LinkAddress]) -> Change[Address]:
    """Pure. Whoever put an address on `lo`: the node answers to it."""
    local = [each for each in present if each.link == requests.LOOPBACK]
    ours = {each.address for each in local if each.ours}
    return change(wished, ours, {each.address for each in local} - ours)


class Gateways:
    def __init__(self) -> None:
        self._kept = Kept(requests.gateway)

    def write(self, wished: Iterable[Address]) -> tuple[str, ...]:
        return self._kept.write(plan(wished, dump.addresses()))

    def problems(self, wished: Iterable[Address]) -> tuple[Problem, ...]:
        return self._kept.problems(plan(wished, dump.addresses()))

    def restore(self) -> tuple[str | Problem, ...]:
        return self._kept.restore(plan((), dump.addresses()))
