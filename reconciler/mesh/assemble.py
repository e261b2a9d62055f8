"""The mesh of a real node, put together: the real tailscaled, Headscale, kernel and probe around the loop.

Apart from the loop, because what it needs is imported late: the HTTP library costs a start a fifth of a second, in
which pods can already be served.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from typing import TypeVar

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.mesh.acts import Outside
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.localapi import LocalApi
from reconciler.mesh.look import Looker
from reconciler.mesh.loop import Mesh, Needs
from reconciler.mesh.model import ControlNode
from reconciler.mesh.ports import Headscale, MeshKernel, Prober
from reconciler.mesh.probe import Probe
from reconciler.mesh.secrets import API_KEY, read_key
from reconciler.mesh.witness import GiveAnswer, HeardHint, Silent
from reconciler.observe import Observer
from reconciler.ports import Clock
from reconciler.settings import Network
from reconciler.store import Store

T = TypeVar("T")


async def run(
    needs: Needs, store: Store, clock: Clock, kernel: MeshKernel, observer: Observer, made: Callable[[Mesh], None]
) -> None:
    """For ever; a fault goes up. `made` gets the loop, to wake it."""
    config = needs.config()
    async with AsyncExitStack() as at_the_end:
        tailscaled = LocalApi(config.tailscale_socket)
        at_the_end.push_async_callback(tailscaled.close)
        headscale = _headscale(config, observer)
        if headscale is not None:
            at_the_end.push_async_callback(headscale.close)

        def make_probe(answer: GiveAnswer, heard_hint: HeardHint) -> Prober:
            if not config.probe_port:
                return Silent()
            probe = Probe(answer, heard_hint, config.probe_port)
            at_the_end.callback(probe.close)
            return probe

        out = Outside(tailscaled, headscale, observer)
        mesh = Mesh(out, needs, store, Looker(clock, tailscaled, kernel), make_probe, _seed(config))
        made(mesh)
        await mesh.run()


def _seed(config: Config) -> str:
    """Something of this node alone."""
    return f"{socket.gethostname()} {' '.join(map(str, config.pod_cidrs))}"


def _headscale(config: Config, observer: Observer) -> Headscale | None:
    if config.mesh_approval != "key":
        return None
    client = HeadscaleClient(
        config.headscale_url, lambda: read_key(API_KEY.variable, config.api_key_file), config.headscale_ca_file
    )
    return _Timed(client, observer)


class _Timed:
    """Headscale with a watch."""

    def __init__(self, headscale: Headscale, observer: Observer) -> None:
        self._headscale = headscale
        self._observer = observer

    async def nodes(self) -> tuple[ControlNode, ...] | Refusal:
        return await self._timed(self._headscale.nodes())

    async def approve(
        self, node: ControlNode, wanted: Collection[Network], unwanted: Collection[Network] = (), again: bool = False
    ) -> ControlNode | Refusal:
        return await self._timed(self._headscale.approve(node, wanted, unwanted, again))

    async def close(self) -> None:
        await self._headscale.close()

    async def _timed(self, call: Awaitable[T | Refusal]) -> T | Refusal:
        began = time.monotonic()
        outcome = await call
        self._observer.headscale(time.monotonic() - began, not isinstance(outcome, Refusal))
        return outcome
