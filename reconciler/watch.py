"""When to list the intents directory: at once when the doorbell rings, soon when watchfiles sees a change, and every
second in any case.

The doorbell (a FIFO, polled by the event loop) is what makes an ADD fast. watchfiles serves plugins that could not
ring, and costs little because it may be slow: its step is what it polls its own queue with, each time with the
interpreter's lock. The listing each second is what makes it true: watchfiles hides a queue that overflowed, and falls
silent for ever when the directory is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from watchfiles import awatch

from reconciler.mailbox import Mailbox

RESCAN_MS = 1000
STEP_MS = 100
DEBOUNCE_MS = 100  # under a steady stream, the longest that events are gathered


async def watch(mailbox: Mailbox, look: Callable[[], None]) -> None:
    """Until cancelled. `look` lists the directory and hands on what is new."""
    loop = asyncio.get_running_loop()
    while True:
        bell = mailbox.hang_doorbell()
        if bell is not None:
            loop.add_reader(bell, _answer_bell, mailbox, look)
        try:
            await _watch_directory(mailbox, look)
        finally:
            if bell is not None:
                loop.remove_reader(bell)
            mailbox.take_down_doorbell()


def _answer_bell(mailbox: Mailbox, look: Callable[[], None]) -> None:
    mailbox.silence_doorbell()
    look()


async def _watch_directory(mailbox: Mailbox, look: Callable[[], None]) -> None:
    """Returns when the directory or the doorbell is not the one it watched any more."""
    mailbox.restore_directories()
    watched = mailbox.directory_identity()
    stop = asyncio.Event()
    changes = awatch(
        mailbox.intents,
        watch_filter=None,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        stop_event=stop,
        rust_timeout=RESCAN_MS,
        yield_on_timeout=True,
        recursive=False,
    )
    look()  # what came before the watch was armed
    try:
        async for _ in changes:
            look()
            if mailbox.directory_identity() != watched or not mailbox.doorbell_in_place():
                return
    finally:
        stop.set()
        await changes.aclose()
