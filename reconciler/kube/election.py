"""Takes part in the election that `lease.py` decides, and does the work while this one leads."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.lease import RENEW, RETRY, Lease, Standing, given_back, lease_from, may_write, saw, won, written
from reconciler.kube.ports import Api

RELEASE_WITHIN = 2.0  # seconds

log = logging.getLogger("headcni")


def awake_or_asleep() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Election:
    """`api` waits until there is one. A refusal of a turn is in `trouble` until a turn succeeds."""

    def __init__(
        self,
        api: Callable[[], Awaitable[Api]],
        namespace: str,
        name: str,
        me: str,
        clock: Callable[[], float] = awake_or_asleep,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._standing = Standing(me)
        self.trouble: Refusal | None = None

    @property
    def leads(self) -> bool:
        return self._standing.leads(self._clock())

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Until it is cancelled: `work` runs while this one leads, and is cancelled when it does not any more."""
        try:
            while True:
                while not self.leads:
                    await self._turn(within=RENEW)
                    await asyncio.sleep(0 if self.leads else RETRY * (1 + self._chance() / 5))
                log.info("lease: leading as %s", self._standing.me)
                await self._lead(work)
                log.warning("lease: lost; another one leads, or the API did not answer for %.0f s", RENEW)
        finally:
            await self._give_back()

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(work())
        try:
            while self.leads:
                done, _ = await asyncio.wait({task}, timeout=min(RETRY, self._left()))
                if done:
                    return task.result()
                if self.leads:
                    await self._turn(within=self._left())
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _left(self) -> float:
        return max(0.0, self._standing.until - self._clock())

    async def _turn(self, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                trouble = await self._try()
        except TimeoutError:  # the request may still be carried out; it says that this one is alive, which is true
            return
        if trouble is not None and self.trouble is None:
            log.warning("lease: code=%d %s", trouble.code, trouble)
        self.trouble = trouble

    async def _try(self) -> Refusal | None:
        api = await self._api()
        read = await api.get(f"{self._all}/{self._name}")
        missing = isinstance(read, Refusal)
        if not isinstance(read, Refusal):
            self._saw(lease_from(read))
        elif read.code != Trouble.API_ANSWER:
            return read
        standing = Standing(self._standing.me) if missing else self._standing
        sent = self._clock()
        if not may_write(standing, sent):
            return None
        body = written(standing, self._name, self._wall())
        answer = await (api.create(self._all, body) if missing else api.replace(f"{self._all}/{self._name}", body))
        if isinstance(answer, Refusal):
            return answer
        self._standing = won(standing, lease_from(answer), sent)
        return None

    def _saw(self, lease: Lease) -> None:
        before = self._standing.lease
        self._standing = saw(self._standing, lease, self._clock())
        if lease.holder not in ("", self._standing.me) and (before is None or before.holder != lease.holder):
            log.info("lease: %s leads; this one waits", lease.holder)

    async def _give_back(self) -> None:
        lease = self._standing.lease
        if not self.leads or lease is None:
            return
        self._standing = Standing(self._standing.me, lease)
        try:
            async with asyncio.timeout(RELEASE_WITHIN):
                api = await self._api()
                await api.replace(f"{self._all}/{self._name}", given_back(lease, self._name, self._wall()))
        except TimeoutError:  # it runs out by itself
            return
