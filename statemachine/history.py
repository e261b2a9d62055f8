"""How closed attachments are filed, and which of them are let go.

A closed record keeps its format and its content; only its name begins with the instant it was closed, in UTC and of
fixed width, so that a sorted listing is in order of time and age is judged without opening a file. A wall clock
that was wrong misfiles a record, no more: nothing is decided by these names except which to forget first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from statemachine.attachment import Attachment

_STAMP = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-([^/]+@[^/]+)\.json", re.ASCII)
DAY = 86_400


@dataclass(frozen=True, slots=True)
class HistoryName:
    closed: float
    key: str


def history_name(record: Attachment) -> str:
    """From the record alone, so that a close that was killed is repeated under the same name."""
    return f"{_stamp(record.since)}-{record.key}.json"


def parse_name(name: str) -> HistoryName | None:
    """None when the file is no closed attachment of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        closed = datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return HistoryName(closed.timestamp(), match[2])


def to_prune(names: Iterable[str], now: float, max_records: int, max_days: float) -> list[str]:
    """The names to forget, oldest first; files that are not ours are never among them."""
    ours = sorted(name for name in names if _NAME.fullmatch(name))
    oldest_kept = _stamp(now - max_days * DAY)
    surplus = len(ours) - max_records
    return [name for rank, name in enumerate(ours) if rank < surplus or name < oldest_kept]


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(max(at, 0.0), UTC).strftime(_STAMP)
