"""The daemon's side of Kubernetes through the life of a real API server: the Node is right soon after each change."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from fixtures.kube.server import RBAC, KubeServer
from reconciler.kube.rbac import Role, manifests
from reconciler.kube.side import KubeSide, Needs
from reconciler.operate.status import NotReady
from reconciler.ports import SystemClock
from tests.kube.clients import config
from tests.pure.samples import STATUS

SOON = 5.0  # seconds, as docs/design/kube.md has it
READY = replace(STATUS, ready=True, not_ready=(), mesh={"mode": "none", "static_routes": []})
FULL = replace(READY, ready=False, not_ready=(NotReady("pool 10.244.1.0/24 is empty", "delete pods"),))
UP, DOWN = ("False", "HeadCNIIsUp"), ("True", "HeadCNIIsNotReady")
TAINT = {"key": "headcni.io/not-ready", "effect": "NoSchedule"}
ACCOUNT = "system:serviceaccount:default:headcni"
PLURALS = {"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings"}


class Site:
    """A daemon's status around the real side, with the rights of the list."""

    def __init__(self, server):
        self.server = server
        self.status = READY
        self.side = KubeSide("worker-1", SystemClock(), self._needs())

    def _needs(self):
        nothing = {}
        return Needs(
            status=lambda: self.status,
            records=lambda: nothing,
            idle=lambda key: True,
            namespace_alive=lambda record: None,
            runtime_lists=dict,
            post=lambda key, event: None,
            keep=lambda record: None,
            changed=lambda: None,
            warn=lambda key, text: None,
        )

    async def told(self, wanted, within=SOON):
        """Until the Node says so."""
        give_up = time.monotonic() + within
        while (found := await asyncio.to_thread(self._told)) != wanted:
            assert time.monotonic() < give_up, f"after {within} s the Node says {found}; {self.side.summary()}"
            await asyncio.sleep(0.1)

    async def shows(self, holds):
        """Until the status says so."""
        give_up = time.monotonic() + SOON
        while not holds(self.side.summary()):
            assert time.monotonic() < give_up, self.side.summary()
            await asyncio.sleep(0.1)

    def _told(self):
        node = self.server.call("GET", "/api/v1/nodes/worker-1")
        found = {each["type"]: each for each in node["status"].get("conditions", [])}
        return tuple(found.get("NetworkUnavailable", {}).get(key) for key in ("status", "reason"))


@pytest.fixture
def server(tmp_path):
    with KubeServer(tmp_path) as server:
        for made in manifests(Role.DAEMON, "default"):
            server.call("POST", f"{RBAC}/{PLURALS[made['kind']]}", made)
        server.call("POST", "/api/v1/nodes", {"metadata": {"name": "worker-1"}, "spec": {"taints": [TAINT]}})
        server.kubeconfig("daemon", {"token": server.token("headcni")})
        yield server


@asynccontextmanager
async def attended(server):
    chosen = config(**{"kube.kubeconfig": str(server.work_dir / "kubeconfigs" / "daemon")})
    site = Site(server)
    running = asyncio.create_task(site.side.run(lambda: chosen))
    try:
        yield site
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})


def test_the_node_is_right_soon_after_each_change(server):
    async def body():
        server.kill()
        async with attended(server) as site:
            await asyncio.sleep(3)
            assert site.side.summary()["up_to_date"] is False
            await asyncio.to_thread(server.start)
            await site.told(UP)
            taints = (await asyncio.to_thread(server.call, "GET", "/api/v1/nodes/worker-1"))["spec"]["taints"]
            assert TAINT["key"] not in [each["key"] for each in taints]

            site.status = FULL
            await site.told(DOWN)

            bindings = f"{RBAC}/clusterrolebindings"
            await asyncio.to_thread(server.call, "DELETE", f"{bindings}/headcni")
            await asyncio.to_thread(server.wait_may, ACCOUNT, "get", "nodes", wanted=False)
            site.status = READY
            await asyncio.sleep(10)
            assert site.side.summary()["trouble"]["code"] == 177
            await site.told(DOWN, within=0.5)
            binding = manifests(Role.DAEMON, "default")[1]
            await asyncio.to_thread(server.call, "POST", bindings, binding)
            await site.told(UP)

            server.kill()
            site.status = FULL
            await asyncio.sleep(10)
            await asyncio.to_thread(server.start)
            await site.told(DOWN)
            await site.shows(lambda summary: summary["up_to_date"])

    asyncio.run(body())
