"""List, then watch from there, for ever: pure but for its `Source`, so that each trouble can be played to it.

A stream that ends or falls silent is no trouble: it is taken up again from the last version seen, which costs the
server nothing. Only when that fails is there something to tell. When the server has forgotten that version (410), all
is listed anew. After a refusal, something is always said once it is over, be it that nothing changed.

A list comes out of the server's memory where it can: etcd is one for all nodes, and they all list when a server was
started anew. What belongs to one node (a field selector) is first listed as the server has it at hand (version 0),
which may be seconds old, and the watch brings the rest. Version 0 comes in one page, however large, so whoever wants
everything does without. Listed anew, it must not be older than what was seen before. Only what the server says that it
does not have, be it not any more (410) or not yet (504, a server that lags or whose etcd was set back), it reads from
etcd; also when it forgot at once what it had just listed, or that would go round in circles.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from cni.spec import Refusal
from reconciler.kube.patience import Rest
from reconciler.kube.ports import HttpRefusal, Seen, What

PAGE = 100  # objects; a thousand nodes in pages of 500 cost 18 MiB more, for good, and are not read faster
LASTS = (240, 360)  # seconds after which the server ends a stream; drawn, so that those of many nodes do not coincide
SILENCE = 90.0  # seconds; a server sends a bookmark each minute
SHORT = 1.0  # seconds; streams that end sooner are not begun again at once
GONE, TIMEOUT = 410, 504
TOO_LARGE = "too large resource version"
AT_HAND, LATEST = "0", ""  # versions to list: what the server has in memory, what is in etcd


class Kind(StrEnum):
    BEGUN = "BEGUN"  # ours: the server has accepted the watch
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Event:
    kind: Kind
    object: Any = None  # what is kept of it
    version: str = ""
    status: int = 0  # of an error


@dataclass(frozen=True, slots=True)
class Page:
    objects: tuple[Any, ...]
    version: str
    following: str = ""


class Source(Protocol):
    async def page(self, query: Mapping[str, str]) -> Page | Refusal: ...

    def events(self, query: Mapping[str, str]) -> AsyncGenerator[Event | Refusal, None]:
        """A refusal only as the first and last; a stream that broke off has simply ended."""


async def watch(
    source: Source,
    query: Mapping[str, str],
    pause: Callable[[float], Awaitable[None]],
    now: Callable[[], float],
    draw: Callable[[], float] = random.random,
) -> AsyncGenerator[Seen | Refusal, None]:
    rest, to_be_told = Rest(draw), False
    version, listed = AT_HAND if "fieldSelector" in query else LATEST, ""
    while True:
        if not listed:
            page = await _list(source, query, version)
            if isinstance(page, Refusal):
                version = LATEST if _unknown(page) else version
                yield page
                await pause(rest.after(page))
                continue
            version = listed = page.version
            to_be_told = False
            rest.over()
            yield Seen(What.LISTED, page.objects)
        began, trouble = now(), None
        async with aclosing(source.events(_from(query, version, draw))) as events:
            async for event in events:
                if isinstance(event, Refusal) or event.kind is Kind.ERROR:
                    trouble = event
                    break
                version = event.version or version
                seen = _seen(event, to_be_told)
                if seen is not None:
                    to_be_told = False
                    yield seen
        if trouble is not None and _unknown(trouble):
            version, listed = LATEST if version == listed else version, ""
        elif isinstance(trouble, Refusal):
            to_be_told = True
            yield trouble
        if trouble is not None or now() - began < SHORT:
            await pause(rest.after(trouble if isinstance(trouble, Refusal) else None))
        else:
            rest.over()


async def _list(source: Source, query: Mapping[str, str], version: str) -> Page | Refusal:
    """All pages, of which each is reduced before the next is fetched."""
    objects: list[Any] = []
    where = {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"} if version else {}
    while True:
        page = await source.page({**query, "limit": str(PAGE), **where})
        if isinstance(page, Refusal):
            return page
        objects += page.objects
        if not page.following:
            return Page(tuple(objects), page.version)
        where = {"continue": page.following}  # which holds the version


def _from(query: Mapping[str, str], version: str, draw: Callable[[], float]) -> dict[str, str]:
    lasts = LASTS[0] + (LASTS[1] - LASTS[0]) * draw()
    own = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": f"{lasts:.0f}"}
    return {**query, **own}


def _seen(event: Event, silent: bool) -> Seen | None:
    if event.kind is Kind.BEGUN:
        return Seen(What.CHANGED, ()) if silent else None
    if event.kind is Kind.BOOKMARK or event.object is None:
        return None
    return Seen(What.DELETED if event.kind is Kind.DELETED else What.CHANGED, (event.object,))


def _unknown(trouble: Event | Refusal) -> bool:
    """To the server: the version that was asked for. Before 1.19 it also takes "not older" for "exactly"."""
    if not isinstance(trouble, Event | HttpRefusal):
        return False
    too_large = isinstance(trouble, Refusal) and trouble.status == TIMEOUT and TOO_LARGE in trouble.msg.lower()
    return trouble.status == GONE or too_large
