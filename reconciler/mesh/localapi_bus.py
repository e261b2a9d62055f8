"""tailscaled's event bus as notices, for ever.

The bus is a help and never the truth: it says when to look. So its lines are read as they come, whatever the consumer
does (tailscaled cuts off who reads too slowly), and what the consumer has not taken yet is merged into one notice; and
a line too long to be of use is passed over while it is read. Whenever the stream ends, for whatever reason, it is
opened again after a moment, and the notice of that says that anything may have changed meanwhile.

What is asked for is as little as there is: no initial state, no netmap, no peers. From 1.100 on, a line then is small
and comes at once, also when only peers changed. Older ones send the whole netmap with each such change; they are asked
to gather these for three seconds, which newer ones would do with all that is said of peers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.localapi_decode import FELL_BEHIND, notice, version
from reconciler.mesh.ports import Notice

log = logging.getLogger("headcni")

SMALL_LINES_SINCE = (1, 100, 0)
GATHERED = 256  # NotifyRateLimit
WRITES_KEPT = 64  # of AdvertiseRoutes, for who has not looked yet
LONGEST_LINE = 1 << 20  # bytes; what is longer is a netmap
FIRST_DELAY = 0.1  # seconds; tailscaled needs one or two to start again
LONGEST_DELAY = 5.0

Open = Callable[[int], Awaitable[aiohttp.ClientResponse | Refusal]]  # the bus, with a mask
Sleep = Callable[[float], Awaitable[None]]


def mask(daemon: str) -> int:
    """What is asked of a tailscaled of this version."""
    known = version(daemon)
    return GATHERED if known is not None and known < SMALL_LINES_SINCE else 0


def merged(earlier: Notice, later: Notice) -> Notice:
    return Notice(
        about_me=earlier.about_me or later.about_me,
        written=(earlier.written + later.written)[-WRITES_KEPT:],
        error=earlier.error or later.error,
        reconnected=earlier.reconnected or later.reconnected,
    )


class Inbox:
    """What was heard and not taken yet: one notice, however much it was."""

    def __init__(self) -> None:
        self._heard: Notice | None = None
        self._news = asyncio.Event()

    def put(self, heard: Notice) -> None:
        self._heard = heard if self._heard is None else merged(self._heard, heard)
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    async def take(self) -> Notice | None:
        """None: woken without news."""
        await self._news.wait()
        self._news.clear()
        heard, self._heard = self._heard, None
        return heard


class Lines:
    """Bytes into lines. Of one that is longer than any of use comes only that it was there: None."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._too_long = False

    def feed(self, piece: bytes) -> list[bytes | None]:
        end, *others = piece.split(b"\n")
        self._add(end)
        whole: list[bytes | None] = []
        for each in others:
            whole.append(None if self._too_long else bytes(self._rest))
            self._rest.clear()
            self._too_long = False
            self._add(each)
        return whole

    def _add(self, part: bytes) -> None:
        self._too_long = self._too_long or len(self._rest) + len(part) > LONGEST_LINE
        if self._too_long:
            self._rest.clear()
        else:
            self._rest += part


class Backoff:
    """How long to wait before the next attempt: longer each time, unless the last one held for a while."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._next = FIRST_DELAY

    def delay(self, held: float) -> float:
        if held > LONGEST_DELAY:
            self._next = FIRST_DELAY
        delay, self._next = self._next, min(2 * self._next, LONGEST_DELAY)
        return delay * (0.5 + self._random() / 2)  # not all nodes at the same instant


class Bus:
    def __init__(self, open: Open, sleep: Sleep, random: Callable[[], float]) -> None:
        self._open = open
        self._mask = 0
        self._sleep = sleep
        self._random = random
        self._listeners: set[asyncio.Task[None]] = set()

    async def watch(self) -> AsyncIterator[Notice]:
        """Ends when the bus is closed."""
        inbox = Inbox()
        listener = asyncio.create_task(self._listen(inbox))
        self._listeners.add(listener)
        listener.add_done_callback(lambda _: inbox.wake())
        try:
            while True:
                heard = await inbox.take()
                if listener.cancelled():
                    return
                if listener.done():
                    listener.result()  # a fault
                if heard is not None:
                    yield heard
        finally:
            self._listeners.discard(listener)
            listener.cancel()
            await asyncio.wait([listener])

    async def close(self) -> None:
        for each in self._listeners:
            each.cancel()
        if self._listeners:
            await asyncio.wait(self._listeners)

    async def _listen(self, inbox: Inbox) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff(self._random)
        reported: Refusal | None = None
        while True:
            began = clock()
            opened = await self._opened()
            if not isinstance(opened, Refusal):
                reported = None
                inbox.put(Notice(reconnected=True))
                async with opened:
                    await _read(opened, inbox)
            elif opened.code == Trouble.TAILSCALED_ANSWER and opened != reported:
                log.warning("tailscaled's event bus cannot be heard, so changes are seen later: %s", opened)
                reported = opened
            await self._sleep(backoff.delay(clock() - began))

    async def _opened(self) -> aiohttp.ClientResponse | Refusal:
        """Only the answer tells the version, so it may have to be asked again."""
        opened = await self._open(self._mask)
        if isinstance(opened, Refusal):
            return opened
        fitting = mask(opened.headers.get("Tailscale-Version", ""))
        if fitting == self._mask:
            return opened
        opened.close()
        self._mask = fitting
        return await self._open(fitting)


async def _read(opened: aiohttp.ClientResponse, inbox: Inbox) -> None:
    """Until it ends. How it ended is of no interest: the next attempt will tell."""
    lines = Lines()
    try:
        async for piece in opened.content.iter_any():
            for line in lines.feed(piece):
                heard = notice(line)
                if FELL_BEHIND in heard.error:
                    return
                inbox.put(heard)
    except (aiohttp.ClientError, OSError):
        return
