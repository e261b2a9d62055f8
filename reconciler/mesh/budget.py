"""How often a repair may be tried. What helps, helps within a few times; what does not must not go on for ever."""

from __future__ import annotations

from collections import deque


class Budget:
    """So many times within so many seconds, by whatever clock the caller has."""

    def __init__(self, times: int, within_seconds: float) -> None:
        self._within = within_seconds
        self._spent: deque[float] = deque(maxlen=times)

    def take(self, now: float) -> bool:
        if self.exhausted(now):
            return False
        self._spent.append(now)
        return True

    def exhausted(self, now: float) -> bool:
        return len(self._spent) == self._spent.maxlen and (not self._spent or now - self._spent[0] < self._within)

    def reset(self) -> None:
        self._spent.clear()
