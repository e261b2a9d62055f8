"""What has lasted: which troubles were there at each look, and since when.

A mesh that comes into being is wrong in a new way each second, and nobody need hear of that. So a trouble must have
lasted before people are told of it, or a node no longer waits for its end. One that goes in between begins anew, and so
does each when the daemon begins: what a restart forgets costs some seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LONG = 15.0  # seconds; a join takes less, and an approval that no person has to give


@dataclass(frozen=True, slots=True)
class Lasting:
    """`now`: seconds of a clock that never jumps."""

    since: Mapping[str, float] = field(default_factory=dict)

    def seen(self, there: Iterable[str], now: float) -> Lasting:
        """After another look, at which all of these are there, and nothing else."""
        return Lasting({each: self.since.get(each, now) for each in there})

    def long(self, each: str, now: float) -> bool:
        return now - self.since.get(each, now) >= LONG
