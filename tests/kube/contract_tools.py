"""What the contract checks share: what they run in, a client that ends, a watch that is listened to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Protocol

from cni.spec import Refusal
from reconciler.kube.client import Client
from reconciler.kube.codes import Trouble
from reconciler.kube.ports import Seen, What

PATIENCE = 30.0
NODES = "/api/v1/nodes"
_numbers = count(1)


class Environment(Protocol):
    async def dial(self, user: str) -> Client:
        """`admin` may do everything, `guest` nothing, `stranger` has a token that nobody knows."""

    async def allow(self, verbs: str, resources: str) -> None:
        """To the guest, and nothing else."""

    async def add_node(self, name: str, pod_cidr: str = "", **metadata: Any) -> None: ...

    async def remove_node(self, name: str) -> None: ...

    async def kill(self) -> None: ...

    async def start(self) -> None: ...

    async def forget(self) -> None:
        """What was before now cannot be watched any more; open watches have ended."""


@asynccontextmanager
async def client(environment: Environment, user: str = "admin") -> AsyncIterator[Client]:
    made = await environment.dial(user)
    try:
        yield made
    finally:
        await made.close()


class Follower:
    """What a watch has told so far: the objects by name, and the refusals since the last good word."""

    def __init__(self, api: Client, path: str, query: Mapping[str, str] | None = None, keep: Any = dict) -> None:
        self.objects: dict[str, Any] = {}
        self.said: list[Seen | Refusal] = []
        self.trouble: Refusal | None = None
        self._task = asyncio.create_task(self._follow(api.watch(path, query, keep)))

    async def _follow(self, seen: Any) -> None:
        async for each in seen:
            self.said.append(each)
            self.trouble = each if isinstance(each, Refusal) else None
            if isinstance(each, Refusal):
                continue
            if each.what is What.LISTED:
                self.objects.clear()
            for found in each.objects:
                if each.what is What.DELETED:
                    self.objects.pop(found["metadata"]["name"], None)
                else:
                    self.objects[found["metadata"]["name"]] = found

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds(self):
                if self._task.done():
                    self._task.result()
                    raise AssertionError("the watch has ended")
                await asyncio.sleep(0.01)

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._task

    async def __aenter__(self) -> Follower:
        await self.until(lambda follower: follower.said)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def fresh(environment: Environment) -> str:
    return f"node-{next(_numbers)}-{id(environment) % 10_000}"


async def good(outcome: Any) -> Any:
    found = await outcome
    assert not isinstance(found, Refusal), found
    return found


async def refused(outcome: Any, code: Trouble, status: int) -> Refusal:
    found = await outcome
    assert isinstance(found, Refusal), found
    assert (found.code, getattr(found, "status", 0)) == (code, status), found
    assert found.details, "a refusal has a cure"
    return found
