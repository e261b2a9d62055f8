"""A real tailscaled, joined to a real Headscale, keeps the contract that the stand-in keeps (tests/mesh)."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.mesh import MeshLab
from tests.mesh.contract_localapi import CHECKS

NAME = "node1"


class Real:
    quiet = 1.5

    def __init__(self, mesh: MeshLab) -> None:
        self.headscale = mesh.headscale
        self.tailscaled = mesh.nodes[0].tailscaled
        self.socket, self.url = self.tailscaled.socket, mesh.headscale.url
        self.auth_key = mesh.headscale.new_auth_key()

    async def start(self) -> None:
        self.tailscaled.start()  # in this thread: a process of the lab dies with the thread that started it

    async def stop(self) -> None:
        await asyncio.to_thread(self.tailscaled.stop)

    async def kill(self) -> None:
        await asyncio.to_thread(self.tailscaled.kill)

    async def approve(self, prefix: str) -> None:
        await asyncio.to_thread(self.headscale.approve, NAME, prefix)

    async def disapprove(self, prefix: str) -> None:
        await asyncio.to_thread(self.headscale.disapprove, NAME, prefix)

    async def expire(self) -> None:
        await asyncio.to_thread(self.headscale.expire, NAME)

    async def delete(self) -> None:
        await asyncio.to_thread(self.headscale.delete, NAME)

    async def lose_control(self) -> None:
        await asyncio.to_thread(self.headscale.kill)

    async def regain_control(self) -> None:
        self.headscale.start()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    with MeshLab(tmp_path_factory.mktemp("m"), nodes=1) as mesh:
        yield Real(mesh)


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_the_real_one(check, environment):
    asyncio.run(check(environment))
