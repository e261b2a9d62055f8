"""When it is tried whether packets reach another node's pod range, at the gateway address in it. Pure.

Each once a minute; after a failure sooner, and then less and less often; a new one at once. All in all, a few in
a second: in a large cluster the minute becomes longer, never the work more. Right after a restart of tailscaled each is
tried about once a second: sessions that the other side believes alive are mended by traffic, and without any they
swallow packets for 15 seconds.

What was tried is put back at the end of the line when it is handed out, so an outcome that never comes loses nothing.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from reconciler.mesh.ration import Ration
from reconciler.settings import IpAddress

EVERY_SECONDS = 60.0
FIRST_RETRY_SECONDS = 2.0  # doubled with each failure
MOST_A_SECOND = 5
WARM_FOR_SECONDS = 20.0
WARM_EVERY_SECONDS = 1.0
WARM_MOST_A_SECOND = 50


@dataclass(slots=True)
class _Turn:
    due: float
    retry: float = FIRST_RETRY_SECONDS


class Deliveries:
    """`shuffled`: in an order of this node's own."""

    def __init__(self, shuffled: Callable[[Iterable[IpAddress]], list[IpAddress]]) -> None:
        self._shuffled = shuffled
        self._turns: dict[IpAddress, _Turn] = {}
        self._line: list[tuple[float, int, IpAddress]] = []  # a heap; an entry is void if its turn has another time
        self._serial = itertools.count()  # first come, first served; addresses of two families have no order
        self._calm = Ration(MOST_A_SECOND)
        self._warm = Ration(WARM_MOST_A_SECOND)
        self._warm_until = -math.inf

    def targets_changed(self, now: float, targets: Set[IpAddress]) -> None:
        for gone in self._turns.keys() - targets:
            del self._turns[gone]
        self.soon(now, targets - self._turns.keys())

    def soon(self, now: float, targets: Iterable[IpAddress]) -> None:
        """These next."""
        for target in self._shuffled(targets):
            self._turns[target] = _Turn(now)
            self._stand_in_line(target, now)

    def restarted(self, now: float) -> None:
        self._warm_until = now + WARM_FOR_SECONDS
        self.soon(now, tuple(self._turns))

    def next_due(self, now: float) -> float:
        first = self._first()
        return math.inf if first is None else max(self._turns[first].due, self._ration(now).free_at())

    def due(self, now: float) -> list[IpAddress]:
        asked: list[IpAddress] = []
        while (first := self._first()) is not None:
            if self._turns[first].due > now or not self._ration(now).take(now):
                break
            warm = now + WARM_EVERY_SECONDS < self._warm_until
            self._stand_in_line(first, now + (WARM_EVERY_SECONDS if warm else self._every()))
            asked.append(first)
        return asked

    def answered(self, target: IpAddress) -> None:
        self._turns[target].retry = FIRST_RETRY_SECONDS

    def unanswered(self, target: IpAddress, now: float) -> None:
        turn = self._turns[target]
        if now + turn.retry < turn.due:  # else its usual turn comes sooner
            self._stand_in_line(target, now + turn.retry)
            turn.retry *= 2

    def _every(self) -> float:
        """So that one in a second remains for those that fail or are new."""
        return max(EVERY_SECONDS, len(self._turns) / (MOST_A_SECOND - 1))

    def _ration(self, now: float) -> Ration:
        return self._warm if now < self._warm_until else self._calm

    def _stand_in_line(self, target: IpAddress, due: float) -> None:
        self._turns[target].due = due
        heapq.heappush(self._line, (due, next(self._serial), target))
        if len(self._line) > 2 * len(self._turns) + 16:  # void entries shall not outgrow the others
            self._line = [entry for entry in self._line if self._holds(entry)]
            heapq.heapify(self._line)

    def _first(self) -> IpAddress | None:
        while self._line and not self._holds(self._line[0]):
            heapq.heappop(self._line)
        return self._line[0][2] if self._line else None

    def _holds(self, entry: tuple[float, int, IpAddress]) -> bool:
        turn = self._turns.get(entry[2])
        return turn is not None and turn.due == entry[0]
