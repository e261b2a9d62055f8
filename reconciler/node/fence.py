"""The fence: between nodes a pod's packet travels in the mesh, or not at all.

While the mesh is down, or a prefix not accepted, nothing in its table leads to another node's pods, and the main table
has the default route: packets with pod addresses would leave in clear. So for each of the cluster's pod CIDRs stands an
`unreachable` route in the main table: better than the default route because it is narrower, worse than any route
that somebody made on purpose because of its metric, and not even looked at while the mesh's own table, which is asked
before, has a way. Senders are told at once that there is none. Incoming packets of pods are unharmed, except where
`rp_filter` is on and this node has no way back to their sender: those are dropped, being of no use anyway.

Narrower routes of others are conflicts: they may be what lets the cluster's own packets out. They are told and left
alone. Not seen are rules that lead to tables of others before the main table is asked.

Rejected: a rule `to CIDR unreachable` behind the mesh's: no route in the main table, not even a pod's, would count.
Dropping in the firewall by outgoing interface: which interfaces lead out is not known, and a flushed ruleset opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from reconciler.ipam.pool import Network
from reconciler.mesh.networks import covers
from reconciler.node import dump, requests
from reconciler.node.dump import Route
from reconciler.node.kept import Change, Kept, change
from reconciler.node.requests import FENCE_METRIC
from reconciler.node.wish import LINK_PREFIX, Problem
from reconciler.wiring import codec as nl
from reconciler.wiring.requests import ROUTE_PROTOCOL


def plan(wished: Iterable[Network], present: Sequence[Route]) -> Change[Network]:
    """Pure. A foreign route of our very metric takes the place: closed if it leads nowhere, else `gaps` tells it."""
    here = [route for route in present if route.metric == FENCE_METRIC]
    ours = {route.dst for route in here if route.protocol == ROUTE_PROTOCOL and route.kind == nl.RTN_UNREACHABLE}
    return change(wished, ours, {route.dst for route in here} - ours)


def gaps(
    wished: Collection[Network], local: Collection[Network], present: Iterable[Route], name: Callable[[int], str]
) -> Iterator[Problem]:
    """Pure. Routes of others that lead packets of the fenced networks out, `local` being this node's own pools."""
    for route in present:
        if route.protocol == ROUTE_PROTOCOL or route.kind != nl.RTN_UNICAST:
            continue
        fenced = next((each for each in wished if _outdoes(route, each)), None)
        if fenced is None or _stays_here(route, local, name):
            continue
        way = (f" via {route.via}" if route.via else "") + (f" dev {name(route.link)}" if route.link else "")
        yield Problem(
            f"the route {route.dst}{way}, of protocol {route.protocol}, leads packets for the pods of {fenced} "
            "past the mesh",
            f"remove it: ip route del {route.dst}{way} metric {route.metric}; if it is meant to carry them, "
            "set mesh.failClosed to false",
        )


def _outdoes(route: Route, fenced: Network) -> bool:
    return covers(fenced, route.dst) and (route.dst != fenced or route.metric <= FENCE_METRIC)


def _stays_here(route: Route, local: Collection[Network], name: Callable[[int], str]) -> bool:
    """Such as a bridge with pods of other plugins."""
    if route.via is not None or not route.link:
        return False
    return any(covers(pool, route.dst) for pool in local) or name(route.link).startswith(LINK_PREFIX)


def _routes() -> list[Route]:
    """Without those to our own pods, which are most."""
    return dump.main_routes(lambda _, __, protocol, kind: protocol != ROUTE_PROTOCOL or kind == nl.RTN_UNREACHABLE)


class Fence:
    def __init__(self) -> None:
        self._kept = Kept(requests.fence)

    def write(self, wished: Iterable[Network]) -> tuple[str, ...]:
        return self._kept.write(plan(wished, _routes()))

    def problems(self, wished: Collection[Network], local: Collection[Network]) -> tuple[Problem, ...]:
        routes = _routes()
        return (*self._kept.problems(plan(wished, routes)), *gaps(wished, local, routes, dump.link_name))

    def restore(self) -> tuple[str | Problem, ...]:
        return self._kept.restore(plan((), _routes()))
