"""The stand-in keeps the contract; tests/peers has the same for a real tailscaled."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.localapi import LocalApiServer
from fixtures.localapi.node import GOOD_KEY
from tests.mesh.contract_localapi import CHECKS


class StandIn:
    quiet = 0.1
    url = "http://192.0.2.1:8080"
    auth_key = GOOD_KEY

    def __init__(self, server: LocalApiServer) -> None:
        self.server, self.node, self.socket = server, server.node, server.socket

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()

    async def kill(self) -> None:
        await self.server.stop(leave_socket=True)

    async def approve(self, prefix: str) -> None:
        self.node.approve(prefix)

    async def disapprove(self, prefix: str) -> None:
        self.node.disapprove(prefix)

    async def expire(self) -> None:
        self.node.expire()

    async def delete(self) -> None:
        self.node.delete()

    async def lose_control(self) -> None:
        self.node.lose_control()

    async def regain_control(self) -> None:
        self.node.regain_control()


@pytest.mark.parametrize("lag", [0.0, 0.05])
@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_the_stand_in(check, lag, tmp_path):
    async def run():
        async with LocalApiServer(tmp_path / "tailscaled.sock") as server:
            server.node.lag = lag
            await check(StandIn(server))

    asyncio.run(run())
