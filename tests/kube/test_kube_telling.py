"""The fake and the stand-in take what is told as a real API server does; tests/peers has the same for that one."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.kube.fake_api import FakeApi
from fixtures.kube.standin import StandIn
from tests.kube.clients import connected, document, write
from tests.kube.contract_telling import CHECKS


class OfFake:
    def __init__(self):
        self.daemon = self.approver = FakeApi()

    async def add_node(self, name, spec):
        self.daemon.put(f"/api/v1/nodes/{name}", {"spec": spec})

    async def taint(self, name, taints):
        self.daemon.put(f"/api/v1/nodes/{name}", {"spec": {"taints": taints}})


class OfStandIn:
    def __init__(self, server, client):
        self.server = server
        self.daemon = self.approver = client

    async def add_node(self, name, spec):
        self.server.store.add(f"/api/v1/nodes/{name}", {"spec": spec})

    async def taint(self, name, taints):
        patch = {"spec": {"taints": taints}}
        self.server.store.patch(f"/api/v1/nodes/{name}", patch, "application/merge-patch+json")


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_the_fake(check):
    asyncio.run(check(OfFake()))


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_the_stand_in(check, tmp_path):
    async def run():
        async with StandIn() as server:
            client = await connected(write(tmp_path / "kubeconfig", document(server.url)))
            try:
                await check(OfStandIn(server, client))
            finally:
                await client.close()

    asyncio.run(run())
