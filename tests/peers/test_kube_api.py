"""A real etcd and kube-apiserver keep the contract that the stand-in keeps (tests/kube)."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.kube.server import KubeServer, of
from tests.kube.clients import connected
from tests.kube.contract_api import CHECKS


class Real:
    def __init__(self, server):
        self.server = server
        self.users = {
            "admin": of(server.admin),
            "guest": of(server.user("guest")),
            "stranger": {"token": "nobody-knows-this"},
        }

    async def dial(self, user):
        return await connected(self.server.kubeconfig(f"{user}.conf", self.users[user]))

    async def allow(self, verbs, resources):
        self.server.grant("guest", verbs.split(), resources.split())

    async def add_node(self, name, pod_cidr="", **metadata):
        self.server.add_node(name, pod_cidr, **metadata)

    async def remove_node(self, name):
        self.server.call("DELETE", f"/api/v1/nodes/{name}")

    async def kill(self):
        self.server.kill()

    async def start(self):
        self.server.start()

    async def forget(self):
        self.server.compact()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    with KubeServer(tmp_path_factory.mktemp("kube")) as server:
        yield Real(server)


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_the_real_one(check, environment):
    asyncio.run(check(environment))
