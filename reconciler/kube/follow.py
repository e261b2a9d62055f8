"""Keeps to the API that is the best at present, and hands on what a watch of it sees. For ever.

When a watch has ended, whatever the cause, that is a refusal like others: the next one may be long in coming, and who
was told nothing would go on believing what was seen last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Protocol

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.ports import Api, Keep, Seen

REST = 0.5  # seconds before an ended watch is begun anew
ENDED = Refusal(Trouble.API_UNREACHABLE, "the way to the API server was given up", "the next one is taken")


class Finder(Protocol):
    async def api(self) -> Api:
        """Waits until there is one; another one when that has failed, or a better one was found."""


async def follow(
    finder: Finder, path: str, query: Mapping[str, str], keep: Keep, take: Callable[[Seen | Refusal], None]
) -> None:
    """A watch that is in trouble is left for that of another API as soon as there is one."""
    while True:
        api = await finder.api()
        async with aclosing(api.watch(path, query, keep)) as watched:  # type: ignore[type-var]
            async for seen in watched:
                take(seen)
                if isinstance(seen, Refusal) and await finder.api() is not api:
                    break
            else:
                take(ENDED)
        await asyncio.sleep(REST)
