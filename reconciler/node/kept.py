"""Things of ours among those of others in the kernel: what is missing is added, what is no longer wished is removed.

The same for fence, guard and gateways, which differ in how ours are told and in what a thing looks like (`Item`). What
others hold as we would is as good as ours: it is left to them, and ours is added when theirs goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from errno import EADDRNOTAVAIL, ENOENT, ESRCH
from typing import Generic, TypeVar

from reconciler.node.requests import Item
from reconciler.node.wish import Problem
from reconciler.wiring.netlink import Netlink
from reconciler.wiring.requests import Failure

T = TypeVar("T")

_GONE = (ESRCH, ENOENT, EADDRNOTAVAIL)  # of a route, a rule, an address


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    add: tuple[T, ...]
    remove: tuple[T, ...]


def change(wished: Iterable[T], ours: Set[T], others: Set[T]) -> Change[T]:
    """Pure. `others`: what somebody else holds just as we would."""
    wished = tuple(dict.fromkeys(wished))
    add = tuple(each for each in wished if each not in ours and each not in others)
    return Change(add, tuple(sorted(ours - set(wished), key=str)))


class Kept(Generic[T]):
    def __init__(self, item: Callable[[T], Item]) -> None:
        self._item = item
        self._refused: dict[T, Problem] = {}  # by the last write

    def write(self, needed: Change[T]) -> tuple[str, ...]:
        """What was changed, in words."""
        self._refused = {}
        deeds = [(thing, "add") for thing in needed.add] + [(thing, "del") for thing in needed.remove]
        if not deeds:
            return ()
        items = [self._item(thing) for thing, _ in deeds]
        requests = [item.add if verb == "add" else item.delete for item, (_, verb) in zip(items, deeds, strict=True)]
        with Netlink() as netlink:
            failures = {failure.request: failure for failure in netlink.ask(requests).failures}
        done = []
        for (thing, verb), item, request in zip(deeds, items, requests, strict=True):
            failure = failures.get(request)
            if failure is None:
                done.append(f"{item.what}: {verb}")
            elif verb == "add" or failure.errno not in _GONE:
                self._refused[thing] = _problem(item, verb, failure)
        return tuple(done)

    def problems(self, needed: Change[T]) -> tuple[Problem, ...]:
        """`needed` by a look now; why the last write did not help, where it did not."""
        missing = [self._refused.get(thing) or _missing(self._item(thing)) for thing in needed.add]
        stuck = [self._refused[thing] for thing in needed.remove if thing in self._refused]
        return (*missing, *stuck)

    def restore(self, needed: Change[T]) -> tuple[str | Problem, ...]:
        done = self.write(needed)
        return (*done, *self._refused.values())


def _missing(item: Item) -> Problem:
    return Problem(f"the {item.what} is missing", "the daemon adds it again; find out who removed it")


def _problem(item: Item, verb: str, failure: Failure) -> Problem:
    reason = os.strerror(failure.errno) + (f": {failure.note}" if failure.note else "")
    if verb == "del":
        return Problem(f"the {item.what} is not removed: {reason}", f"remove it: {item.by_hand('del')}")
    return Problem(
        f"the {item.what} is not set: {reason}",
        "the daemon needs CAP_NET_ADMIN, the kernel policy routing and, for IPv6, IPv6 that is switched on",
    )
