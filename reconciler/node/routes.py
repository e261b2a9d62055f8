"""Static routes to other nodes: what "advertised" means where there is no mesh.

Ours are those of protocol 72 in the main table that have a gateway; the routes to our own pods have none. A route of
anybody else to the same destination is a conflict for a person to solve: we neither touch it nor set ours beside it,
for then the metric would decide in silence. A changed gateway is one `replace`, so there is no instant in which the
other node's pods would be sought by the default route.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.node.dump import Route, link_name, main_routes
from reconciler.node.wish import LINK_PREFIX, Problem
from reconciler.settings import StaticRoute
from reconciler.wiring.requests import ROUTE_PROTOCOL

_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH)


@dataclass(frozen=True, slots=True)
class Plan:
    add: tuple[StaticRoute, ...]
    replace: tuple[StaticRoute, ...]
    remove: tuple[StaticRoute, ...]
    conflicts: tuple[Problem, ...]


def plan(wished: Iterable[StaticRoute], present: Sequence[Route], name: Callable[[int], str]) -> Plan:
    """Pure, with `name` telling an interface's name from its index."""
    ours = {
        route.dst: StaticRoute(route.dst, route.via)
        for route in present
        if route.protocol == ROUTE_PROTOCOL and route.via and not name(route.link).startswith(LINK_PREFIX)
    }
    foreign = {route.dst: route for route in present if route.protocol != ROUTE_PROTOCOL}
    add, replace, conflicts = [], [], []
    for wish in wished:
        held = ours.pop(wish.dst, None)
        if wish.dst in foreign:
            conflicts.append(_conflict(wish, foreign[wish.dst], name))
        elif held is None:
            add.append(wish)
        elif held != wish:
            replace.append(wish)
    return Plan(tuple(add), tuple(replace), tuple(ours.values()), tuple(conflicts))


def _words(route: StaticRoute) -> str:
    return f"{route.dst} via {route.via}"


def _conflict(wish: StaticRoute, rival: Route, name: Callable[[int], str]) -> Problem:
    way = f" via {rival.via}" if rival.via else ""
    way += f" dev {name(rival.link)}" if rival.link else ""
    return Problem(
        f"the static route {_words(wish)} is not set: there is another{way}, of protocol {rival.protocol}",
        f"remove it (ip route del {rival.dst}), or take this one out of network.staticRoutes",
    )


class StaticRoutes:
    def __init__(self) -> None:
        self._refusals: dict[StaticRoute, Problem] = {}

    def write(self, wished: Sequence[StaticRoute]) -> tuple[str, ...]:
        change = self._plan(wished)
        self._refusals = {}
        if not (change.add or change.replace or change.remove):
            return ()
        from pyroute2 import IPRoute  # 0.1 s and 12 MB, which a node without static routes need not pay

        done = []
        with IPRoute() as netlink:
            for verb, routes in (("add", change.add), ("replace", change.replace), ("del", change.remove)):
                for route in routes:
                    refusal = _request(netlink, verb, route)
                    if refusal is None:
                        done.append(f"static route {_words(route)}: {verb}")
                    else:
                        self._refusals[route] = refusal
        return tuple(done)

    def restore(self) -> tuple[str | Problem, ...]:
        done = self.write(())
        return (*done, *self._refusals.values())

    def problems(self, wished: Sequence[StaticRoute]) -> tuple[Problem, ...]:
        change = self._plan(wished)
        missing = tuple(
            self._refusals.get(route)
            or Problem(f"the static route {_words(route)} is missing", "the daemon sets it; find out who removed it")
            for route in change.add + change.replace
        )
        stuck = tuple(self._refusals[route] for route in change.remove if route in self._refusals)
        return missing + change.conflicts + stuck

    def _plan(self, wished: Sequence[StaticRoute]) -> Plan:
        return plan(wished, main_routes(), link_name)


def _request(netlink: Any, verb: str, route: StaticRoute) -> Problem | None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        netlink.route(verb, dst=str(route.dst), gateway=str(route.via), proto=ROUTE_PROTOCOL)
    except NetlinkError as error:
        if verb != "del":
            return _refusal(route, error.code)
        if error.code != errno.ESRCH:  # gone is as good as removed
            return Problem(
                f"the static route {_words(route)} is not removed: {os.strerror(error.code)}",
                f"remove it: ip route del {route.dst} proto {ROUTE_PROTOCOL}",
            )
    return None


def _refusal(route: StaticRoute, code: int) -> Problem:
    if code in _UNREACHABLE:
        return Problem(
            f"the static route {_words(route)} is not set: {route.via} is not reachable",
            f"give an interface of this node an address in the network of {route.via}, or correct `via`",
        )
    return Problem(
        f"the static route {_words(route)} is not set: {os.strerror(code)}", "correct it in network.staticRoutes"
    )
