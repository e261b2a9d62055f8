"""How long to rest before what failed is tried again: one answer for all who ask the API.

Two things pull at it. An API that is back, or a right that was given back, shall be used within five seconds, and
nobody tells of either: so what failed is asked for again at most four seconds later. But a thousand nodes that do so
all night for what nobody mends tonight are a burden. Most outages end, and most hands that took something away are
still there, within ten minutes: so long it is four seconds, and from then on 15 to 30.

What is asked so often costs a server next to nothing. While there is no way to it, one question for each way, whether
it is one (`finder.py`); everybody else waits for that. While there is one, what was refused: that ends at the
authorizer, before anything is read. A server that says when it wants to be asked again is asked then, and not by all
nodes at once; within a minute, whatever it says.

Time is that which was rested, so no clock is needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from cni.spec import Refusal
from reconciler.kube.ports import HttpRefusal

FIRST, SOON = 0.5, 4.0  # seconds, the latter at most
LONG = 600.0  # seconds of rests in a row, after which it is
LATER = (15.0, 30.0)
PATIENCE = 60.0  # seconds, whatever the server asks for


@dataclass(slots=True)
class Rest:
    """Longer after each failure, and never the same on two nodes."""

    draw: Callable[[], float] = random.random
    most: float = SOON
    failures: int = 0
    rested: float = 0.0

    def after(self, trouble: Refusal | None = None) -> float:
        seconds = min(self.most, FIRST * 2.0 ** min(self.failures, 10)) * (0.5 + self.draw() / 2)
        if self.rested >= LONG:
            seconds = max(seconds, LATER[0] + (LATER[1] - LATER[0]) * self.draw())
        seconds += min(retry_after(trouble), PATIENCE)
        self.failures += 1
        self.rested += seconds
        return seconds

    def over(self) -> None:
        self.failures, self.rested = 0, 0.0


def retry_after(trouble: Refusal | None) -> float:
    """Seconds for which the server does not want to be asked; 0: it does not say."""
    return trouble.retry_after if isinstance(trouble, HttpRefusal) else 0.0
