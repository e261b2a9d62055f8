"""Who else pulls: whether something is undone again and again. Pure.

Whoever does the same thing for ever against somebody who undoes it makes the node worse for both. So after the third
time within ten minutes it is left as the other wants it, until there was peace for that long.
"""

from __future__ import annotations

from collections import deque

from cni.spec import Refusal
from reconciler.install.codes import Trouble

TIMES = 3
PEACE = 600.0  # seconds


class Fights:
    def __init__(self) -> None:
        self._done: dict[str, str] = {}  # by us, and not seen undone since: what, by path
        self._undone: dict[str, deque[float]] = {}

    def did(self, path: str, what: str) -> None:
        self._done[path] = what

    def lost(self, path: str, what: str, now: float) -> Refusal | None:
        """It is to be done (again). A refusal: leave it."""
        times = self._undone.setdefault(path, deque(maxlen=TIMES))
        if times and now - times[-1] >= PEACE:
            times.clear()
        if self._done.pop(path, None) == what:
            times.append(now)
        if len(times) < TIMES or times[-1] - times[0] >= PEACE:
            return None
        return Refusal(
            Trouble.CONFLIST_FIGHT,
            f"{path}: somebody undid {TIMES} times within {PEACE / 60:.0f} minutes what HeadCNI did, so it is left so",
            "find the program or person that changes it; HeadCNI tries again after as many minutes of peace",
        )
