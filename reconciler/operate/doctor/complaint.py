"""What is wrong with a node: one `Complaint` for each cause, and what was looked at to find it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cni.spec import Refusal


class Level(StrEnum):
    ERROR = "error"  # pods suffer, or would
    WARNING = "warning"  # they may; or it could not be looked at


@dataclass(frozen=True, slots=True)
class Complaint:
    level: Level
    what: str
    cure: str
    evidence: str = ""  # where that is seen
    code: int = 0  # of docs/errors.md; 0: it has none
    theme: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    theme: str
    saw: str  # what was looked at, in a line
    complaints: tuple[Complaint, ...] = ()


def of(refusal: Refusal, grave: bool, evidence: str = "") -> Complaint:
    level = Level.ERROR if grave else Level.WARNING
    return Complaint(level, refusal.msg, refusal.details, evidence, int(refusal.code))


def worst_first(complaints: Iterable[Complaint]) -> tuple[Complaint, ...]:
    """Otherwise in the order of the themes."""
    return tuple(sorted(complaints, key=lambda each: each.level is not Level.ERROR))
