"""Deletes links in batches: while one batch is in the kernel, the next one gathers.

Deleting a veth pair costs the kernel 15 to 20 ms, most of it waiting for a grace period, and it costs the same for
one pair and for a hundred in one request. So nobody waits for a timer here: a lone delete starts at once, and those
that come while it runs go together.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from reconciler.ports import Wiring


class Unwirer:
    def __init__(self, wiring: Wiring, threads: Executor | None) -> None:
        self._wiring = wiring
        self._threads = threads
        self._gathering: dict[str, asyncio.Future[None]] = {}
        self._running: asyncio.Task[None] | None = None

    async def unwire(self, host_name: str) -> None:
        future = self._gathering.get(host_name)
        if future is None:
            future = self._gathering[host_name] = asyncio.get_running_loop().create_future()
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="unwirer")
        await asyncio.shield(future)

    async def _run(self) -> None:
        try:
            while self._gathering:
                batch, self._gathering = self._gathering, {}
                await self._delete(batch)
        finally:
            self._running = None

    async def _delete(self, batch: dict[str, asyncio.Future[None]]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._wiring.unwire, list(batch))
        except Exception as fault:  # noqa: BLE001  # handed to everyone who waits, each of whom has a supervisor
            for future in batch.values():
                if not future.done():
                    future.set_exception(fault)
        else:
            for future in batch.values():
                if not future.done():
                    future.set_result(None)
