"""Blocking work off the event loop: a thread for each piece, a few at a time, and given up after its time.

The threads are daemons. Those of a `ThreadPoolExecutor` are waited for when the interpreter ends, and one that hangs in
a name look-up or on a dead file system would keep the daemon from ending. A thread that was given up ends by itself
some day; if many have not, nothing more is started, and who asks is told that it took too long.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

AT_ONCE = 4
MOST_LOST = 8
AHEAD = 64  # items that a stream's thread may be ahead of its reader

T = TypeVar("T")


class Threads:
    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)
        self._running: set[threading.Thread] = set()

    async def run(self, work: Callable[[], T], within: float) -> T:
        """TimeoutError: it goes on, but nobody waits for it any more."""
        loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def finish(outcome: T | None, error: BaseException | None) -> None:
            if done.cancelled():
                return
            done.set_exception(error) if error is not None else done.set_result(outcome)

        def body() -> None:
            outcome, error = None, None
            try:
                outcome = work()
            except BaseException as raised:  # noqa: BLE001  # raised again where it is waited for
                error = raised
            with suppress(RuntimeError):  # the loop is gone, and whoever waited
                loop.call_soon_threadsafe(finish, outcome, error)

        async with asyncio.timeout(within), self._free:
            self._running = {each for each in self._running if each.is_alive()}
            if len(self._running) >= AT_ONCE + MOST_LOST:
                raise TimeoutError
            self._running.add(_started(body))
            result: T = await done
            return result

    async def stream(self, items: Callable[[], Iterator[T]], stop: Callable[[], None]) -> AsyncGenerator[T, None]:
        """What `items` yields, in a thread of its own. `stop` makes a waiting `items` end; it may come at any time."""
        loop, queue, room = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Semaphore(AHEAD)
        stopped, end = threading.Event(), object()

        def body() -> None:
            last: object = end
            try:
                for item in items():
                    room.acquire()
                    if stopped.is_set():
                        return
                    loop.call_soon_threadsafe(queue.put_nowait, item)
            except BaseException as raised:  # noqa: BLE001  # raised again where it is waited for
                last = raised
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, last)

        _started(body)
        try:
            while (item := await queue.get()) is not end:
                if isinstance(item, BaseException):
                    raise item
                yield item
                room.release()
        finally:
            stopped.set()
            room.release()
            stop()


def _started(body: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=body, name="aside", daemon=True)
    thread.start()
    return thread
