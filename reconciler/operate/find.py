"""Which attachments an operator means by POD, CONTAINER or IP, and when each held its addresses.

Names are for people, and a StatefulSet uses one again and again: so a name finds every attachment that ever had it,
and it is for the caller to prefer the live ones or to ask back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from ipaddress import ip_address, ip_interface

from reconciler.operate.statedir import Found
from statemachine.attachment import Attachment, State


def matches(record: Attachment, query: str) -> bool:
    if is_address(query):
        wanted = ip_address(query)
        return any(ip_interface(each.address).ip == wanted for each in record.addresses)
    if "/" in query:
        return str(record.pod) == query
    return query == record.pod.name or query == record.key or record.container.startswith(query)


def is_address(query: str) -> bool:
    try:
        ip_address(query)
    except ValueError:
        return False
    return True


def containers(found: Sequence[Found]) -> set[str]:
    return {each.record.container for each in found}


def held(found: Found) -> tuple[float, float | None] | None:
    """From when until when its addresses were its own; None when it never had one."""
    visits = found.record.history
    first = next((visit.at for visit in visits if visit.state is State.ALLOCATED), None)
    if not found.record.addresses:
        return None
    start = found.record.created if first is None else first
    return start, found.record.since if found.record.state is State.TORN_DOWN else None


def held_at(found: Found, at: float) -> bool:
    interval = held(found)
    if interval is None:
        return False
    start, end = interval
    return start <= at and (end is None or at < end)


def ended_by(record: Attachment) -> str:
    """Why it was torn down; nothing while it lives."""
    causes = [visit.cause for visit in record.history if visit.state is State.TEARING_DOWN]
    return causes[-1] if causes else ""


def parse_time(text: str, now: float) -> float | None:
    """`2026-11-21T03:12`, with or without an offset, or a time of day: the latest that has passed."""
    try:
        if "-" in text:
            return datetime.fromisoformat(text).timestamp()
        today = datetime.fromtimestamp(now)
        moment = datetime.combine(today.date(), time.fromisoformat(text))
    except ValueError:
        return None
    if moment.timestamp() > now:
        moment -= timedelta(days=1)
    return moment.timestamp()
