"""The stand-in of each generation keeps the contract; tests/peers has the same for the real ones."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.headscale import GENERATIONS, HeadscaleServer
from tests.mesh.contract_headscale import CHECKS


class StandIn:
    names = ("node1", "node2")
    expired_key = "expired.key"

    def __init__(self, server: HeadscaleServer) -> None:
        self.server = server
        self.generation, self.url, self.key = server.tailnet.generation, server.url, server.key
        server.expired_keys.add(self.expired_key)
        self.ids = {name: server.tailnet.add(name).id for name in self.names}

    def announce(self, name: str, *prefixes: str) -> None:
        self.server.tailnet.announce(self.ids[name], *prefixes)

    def approve_by_hand(self, name: str, *prefixes: str) -> None:
        self.server.tailnet.approve(self.ids[name], *prefixes)

    def revoke_by_hand(self, name: str, *prefixes: str) -> None:
        self.server.tailnet.revoke(self.ids[name], *prefixes)

    def policy_is_a_file(self) -> bool:
        return self.server.policy_mode == "file"

    def packets_pass(self) -> None:
        pass


@pytest.mark.parametrize("policy_mode", ["database", "file"])
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_the_stand_in(generation, check, policy_mode):
    async def run():
        async with HeadscaleServer(generation, policy_mode=policy_mode) as server:
            await check(StandIn(server))

    asyncio.run(run())
