"""Advertising without a mesh: the other nodes' pod CIDRs are reached by the static routes of the configuration.

So an attachment counts as advertised when those routes are in the kernel. They are the node's, not the pod's: one look
serves all pods of the same second, and nothing is to withdraw with a pod.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from cni.spec import Code, Refusal
from reconciler.node.wish import Problem
from statemachine.attachment import Attachment

FRESH = 1.0  # seconds a look stays true


class StaticRoutesAdvertiser:
    def __init__(self, keep_routes: Callable[[], Sequence[Problem]]) -> None:
        self._keep_routes = keep_routes
        self._look: asyncio.Task[Sequence[Problem]] | None = None
        self._looked_at = 0.0

    async def advertise(self, record: Attachment) -> Refusal | None:
        problems = await self._problems()
        if not problems:
            return None
        return Refusal(Code.KERNEL_REFUSED, "static routes are missing", "; ".join(map(str, problems)))

    async def withdraw(self, record: Attachment) -> Refusal | None:
        return None

    async def _problems(self) -> Sequence[Problem]:
        now = time.monotonic()
        if self._look is None or now - self._looked_at > FRESH:
            self._look = asyncio.create_task(asyncio.to_thread(self._keep_routes))
            self._looked_at = now
        return await asyncio.shield(self._look)
