"""So many in a second, and no more."""

from __future__ import annotations

import math
from collections import deque


class Ration:
    """Never more than `most` in any one second, wherever that second begins."""

    def __init__(self, most: int) -> None:
        self._taken: deque[float] = deque(maxlen=most)

    def free_at(self) -> float:
        """When the next one may be taken."""
        return self._taken[0] + 1.0 if len(self._taken) == self._taken.maxlen else -math.inf

    def take(self, now: float) -> bool:
        if now < self.free_at():
            return False
        self._taken.append(now)
        return True
