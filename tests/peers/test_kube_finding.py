"""A real API server that is down, comes up, shows a wrong certificate, takes rights away, hangs, and is killed."""

from __future__ import annotations

import asyncio
import time

from fixtures.kube.pki import Authority
from fixtures.kube.server import KubeServer, of
from reconciler.kube.assemble import PROBE, make_finder
from reconciler.kube.codes import Trouble
from reconciler.kube.transport import Request
from tests.kube.clients import config

SOON = 5.0  # seconds; what the finder promises for each change
NEEDED = Request("GET", "/api/v1/nodes/worker")
HANGS = 9.0  # for one that can only be told from a slow server by waiting, twice


def test_each_change_of_a_real_server_is_known_soon(tmp_path):
    server = KubeServer(tmp_path / "kube")
    kubeconfig = server.kubeconfig("headcni.conf", of(server.user("headcni")))
    given = config(**{"kube.kubeconfig": str(kubeconfig), "node.root": str(tmp_path)})
    own = server.authority.issue("own", "kube-apiserver", names=server.names)
    foreign = Authority(tmp_path / "other", "etcd-ca").issue("foreign", "kube-apiserver", names=server.names)
    known = []

    async def run():
        news = asyncio.Event()

        def publish(reaching):
            known.append(reaching)
            news.set()

        finder = make_finder(lambda: given, "worker", publish, {})
        task = asyncio.create_task(finder.run())

        async def until(code, within=SOON):
            """`None`: it is reached. What was lost is noticed by whoever needs it."""
            began = time.monotonic()
            if known and known[-1].endpoint is not None:
                await (await finder.api()).ask(NEEDED, PROBE)
            async with asyncio.timeout(3 * within):
                while not known or (known[-1].refusal.code if known[-1].refusal else None) != code:
                    news.clear()
                    await news.wait()
            took = time.monotonic() - began
            assert took < within, f"{code} was known after {took:.1f} s"

        await until(Trouble.API_UNREACHABLE)
        server.start()
        await until(Trouble.API_FORBIDDEN)
        server.grant("headcni", ["get"], ["nodes"])
        await until(None)
        server.revoke("headcni")
        await until(Trouble.API_FORBIDDEN)
        server.grant("headcni", ["get"], ["nodes"])
        await until(None)
        server.rotate(foreign)
        server.kill()
        server.start()
        await until(Trouble.API_TLS_AUTHORITY)
        server.rotate(own)
        await until(None)
        server.pause()
        await until(Trouble.API_UNREACHABLE, HANGS)
        server.go_on()
        await until(None)
        server.kill()
        await until(Trouble.API_UNREACHABLE)
        task.cancel()
        await asyncio.wait([task])

    try:
        asyncio.run(run())
    finally:
        server.__exit__(None, None, None)
