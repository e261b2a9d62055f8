"""The stand-in keeps the contract; tests/peers has the same for a real API server."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.kube.standin import StandIn
from tests.kube.clients import connected, document, write
from tests.kube.contract_api import CHECKS

GUEST, ADMIN = "guest-token", "admin-token"
EVERYTHING = {
    (verb, resource)
    for verb in ("get", "list", "watch", "create", "update", "patch")
    for resource in ("nodes", "nodes/status", "pods", "events", "leases")
}


class OfStandIn:
    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        server.tokens |= {GUEST, ADMIN}

    async def dial(self, user):
        token = {"guest": GUEST, "admin": ADMIN}.get(user, "nobody-knows-this")
        return await connected(write(self.folder / user, document(self.server.url, {"token": token})))

    async def allow(self, verbs, resources):
        granted = {(verb, resource) for verb in verbs.split() for resource in resources.split()}
        self.server.denied = {GUEST: EVERYTHING - granted}

    async def add_node(self, name, pod_cidr="", **metadata):
        self.server.add_node(name, pod_cidr, **metadata)

    async def remove_node(self, name):
        self.server.store.remove(f"/api/v1/nodes/{name}")

    async def kill(self):
        await self.server.stop()

    async def start(self):
        await self.server.start()

    async def forget(self):
        self.server.store.forget()
        self.server.cut_watches()


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_the_stand_in(check, tmp_path):
    async def run():
        async with StandIn() as server:
            await check(OfStandIn(server, tmp_path))

    asyncio.run(run())
