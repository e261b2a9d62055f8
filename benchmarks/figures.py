"""A figure, its goal, and how both are printed: ratios and verdicts first, milliseconds below for who wants them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str  # "x" for a ratio
    at_most: float | None = None
    at_least: float | None = None

    @property
    def verdict(self) -> str:
        if self.at_most is None and self.at_least is None:
            return ""
        good = (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )
        return "met" if good else "missed"

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return f"≥ {self.at_least:g}" if self.at_least is not None else ""


@dataclass(frozen=True)
class Series:
    """Durations of one thing, in seconds."""

    name: str
    seconds: Sequence[float] = field(repr=False)

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(0.99 * (len(self.seconds) - 1))]


@dataclass
class Report:
    title: str
    figures: list[Figure] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)

    def print(self) -> None:
        print(f"\n{self.title}")
        for each in self.figures:
            print(f"  {each.value:9.2f} {each.unit:4} {each.goal:8} {each.verdict:7} {each.name}")
        if self.series:
            print(f"  {'p50 ms':>9} {'p99 ms':>9}")
        for one in self.series:
            print(f"  {one.p50 * 1e3:9.2f} {one.p99 * 1e3:9.2f}  {one.name} ({len(one.seconds)} times)")

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "figures": [asdict(each) | {"verdict": each.verdict} for each in self.figures],
            "series": [
                {"name": one.name, "p50_ms": one.p50 * 1e3, "p99_ms": one.p99 * 1e3, "count": len(one.seconds)}
                for one in self.series
            ],
        }
