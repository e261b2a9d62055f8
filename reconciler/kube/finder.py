"""Keeps a way to the API server: tries the candidates in their order, keeps to the first that works, and says which.

None is waited for. Each is dialled with a short time, then the next one; while the way in use is not the best of all,
better ones are tried now and then. A way works when the server grants us to read our own Node: one that answers and
grants nothing is of no use, and that it lets nobody in is a diagnosis.

One failure is not believed: the way in use is asked again before it counts as lost. While nothing fails it is asked
each minute: nobody tells that rights were lost, but whoever needs one notices, and then it is asked at once. Doubts
that were none are looked into ever more seldom, as ways are while none works (`patience.py`). Rejected: to ask every
few seconds; of a thousand nodes those are hundreds of questions each second.

The client of a way that is lost is kept while no other candidate works, so that its watches go on from where they
were when the server is back; but over new connections, for TCP may need a minute to find out that an old one works
again, and never finds out that the other machine was another.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cni.spec import Refusal
from reconciler.kube.candidates import KUBELETS, Candidate
from reconciler.kube.codes import Trouble
from reconciler.kube.patience import Rest
from reconciler.kube.ports import Api

SEARCH = (48.0, 72.0)  # seconds between two searches while there is a way: is it still one, and is a better one there
SHORTEST = 1.0  # between two looks at the way in use, however much it is doubted

A = TypeVar("A", bound=Api)


@dataclass(frozen=True, slots=True)
class Attempt:
    candidate: Candidate
    refusal: Refusal | None = None  # it works


@dataclass(frozen=True, slots=True)
class Reaching:
    endpoint: str | None  # what is dialled, with whose credentials
    tried: tuple[Attempt, ...]  # in the last search through all, in their order
    since: float  # when the endpoint, or its lack, began

    @property
    def refusal(self) -> Refusal | None:
        """If there is no way: why not the best one."""
        if self.endpoint is not None:
            return None
        if self.tried:
            return self.tried[0].refusal
        looked = ", ".join(map(str, KUBELETS))
        what = f"no way to an API server is known: no kube.url, no kube.kubeconfig, none of {looked}"
        return Refusal(Trouble.API_UNREACHABLE, what, "name a kubeconfig with kube.kubeconfig")


@dataclass(frozen=True, slots=True)
class Means(Generic[A]):
    """How the finder acts."""

    candidates: Callable[[], Awaitable[tuple[Candidate, ...]]]
    dial: Callable[[Candidate], Awaitable[A | Refusal]]
    check: Callable[[A], Awaitable[Refusal | None]]
    publish: Callable[[Reaching], None]


class Finder(Generic[A]):
    def __init__(
        self,
        means: Means[A],
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._means = means
        self._now, self._wall, self._sleep, self._draw = now, wall, sleep, draw
        self._client: A | None = None
        self._candidate: Candidate | None = None
        self._next_search = float("-inf")
        self._missing, self._unfounded = Rest(draw), Rest(draw)  # searches, and doubts, in a row
        self._pause = SHORTEST
        self._doubted = asyncio.Event()
        self._found = asyncio.Event()
        self.reaching = Reaching(None, (), wall())
        self._published: Reaching | None = None

    async def api(self) -> A:
        """Waits until there is one. It may fail at any time, and another may be better some day: ask again."""
        await self._found.wait()
        assert self._client is not None
        return self._client

    def doubt(self, candidate: Candidate) -> None:
        """A call or watch by it failed."""
        if candidate == self._candidate:
            self._doubted.set()

    async def run(self) -> None:
        try:
            while True:
                await self._turn()
                await self._rest()
        finally:
            self._found.clear()
            await self._use(None, None)

    async def _turn(self) -> None:
        tried, before = self.reaching.tried, self._client
        works = False
        self._doubted.clear()
        if self._client is not None and self._found.is_set() and self._now() < self._next_search:
            works = await self._means.check(self._client) is None
        if not works:
            tried = await self._search()
            works = bool(tried) and tried[-1].refusal is None
        endpoint = self._client.endpoint if works and self._client is not None else None
        since = self.reaching.since if (endpoint is None) == (self.reaching.endpoint is None) else self._wall()
        if works and before is not None and before is self._client and not self._found.is_set():
            before.begin_anew()
        self._found.set() if works else self._found.clear()
        self.reaching = Reaching(endpoint, tried, since)
        if self.reaching != self._published:
            self._published = self.reaching
            self._means.publish(self.reaching)

    async def _search(self) -> tuple[Attempt, ...]:
        self._next_search = self._now() + SEARCH[0] + (SEARCH[1] - SEARCH[0]) * self._draw()
        tried: list[Attempt] = []
        listed = await self._means.candidates()
        for candidate in listed:
            tried.append(Attempt(candidate, await self._attempt(candidate)))
            if tried[-1].refusal is None:
                return tuple(tried)
        if self._candidate not in listed:
            await self._use(None, None)
        return tuple(tried)

    async def _attempt(self, candidate: Candidate) -> Refusal | None:
        if self._client is not None and candidate == self._candidate:
            return await self._means.check(self._client)
        client = await self._means.dial(candidate)
        if isinstance(client, Refusal):
            return client
        refusal = await self._means.check(client)
        if refusal is not None:
            await client.close()
            return refusal
        await self._use(candidate, client)
        return None

    async def _use(self, candidate: Candidate | None, client: A | None) -> None:
        before, self._client, self._candidate = self._client, client, candidate
        if before is not None:
            await before.close()

    async def _rest(self) -> None:
        if self.reaching.endpoint is None:
            self._calm()
            await self._sleep(self._missing.after(self.reaching.refusal))
            return
        self._missing.over()
        await self._sleep(self._pause)
        doubted = asyncio.ensure_future(self._doubted.wait())
        rested = asyncio.ensure_future(self._sleep(max(0.0, self._next_search - self._now())))
        try:
            await asyncio.wait((doubted, rested), return_when=asyncio.FIRST_COMPLETED)
        finally:
            doubted.cancel()
            rested.cancel()
        if self._doubted.is_set():
            self._pause = max(SHORTEST, self._unfounded.after())
        else:
            self._calm()

    def _calm(self) -> None:
        self._pause = SHORTEST
        self._unfounded.over()
