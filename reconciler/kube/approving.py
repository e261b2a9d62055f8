"""An approver that has its list of nodes from Kubernetes; of several, the one that holds the Lease works."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.election import Election
from reconciler.kube.follow import Finder
from reconciler.kube.members import NodeList
from reconciler.kube.rbac import LEASE
from reconciler.mesh.approver import Approver, Round
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.settings import Network

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PATIENCE = 30.0  # seconds for the list of nodes, where only one round is wanted

T = TypeVar("T")


async def approve(
    finder: Finder, headscale: HeadscaleClient, cluster: Sequence[Network], namespace: str, me: str
) -> None:
    """Until it is cancelled. What it knows of nodes it learns anew each time that it begins to lead."""

    async def work() -> None:
        nodes = NodeList()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(nodes.follow(finder))
            await nodes.heard()
            tasks.create_task(Approver(headscale, nodes.read, cluster).run())

    await Election(finder.api, namespace, LEASE, me).run(work)


async def approve_once(finder: Finder, headscale: HeadscaleClient, cluster: Sequence[Network]) -> Round | Refusal:
    nodes = NodeList()

    async def round_() -> Round | Refusal:
        try:
            async with asyncio.timeout(PATIENCE):
                await nodes.heard()
        except TimeoutError:
            what = f"Kubernetes did not give its list of nodes within {PATIENCE:g} s"
            return Refusal(Trouble.API_UNREACHABLE, what, "the log says which ways were tried")
        return await Approver(headscale, nodes.read, cluster).round()

    return await beside(nodes.follow(finder), round_())


async def beside(background: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]) -> T:
    """`work`, and with it what it needs until its very end. A fault of either ends both."""
    behind, front = asyncio.ensure_future(background), asyncio.ensure_future(work)
    try:
        await asyncio.wait({behind, front}, return_when=asyncio.FIRST_COMPLETED)
        if behind.done():
            behind.result()
        return await front
    finally:
        for task in (front, behind):
            task.cancel()
            await asyncio.wait({task})


def own_namespace() -> str:
    """Of the pod that this runs in, if it does."""
    try:
        return NAMESPACE.read_text().strip() or "kube-system"
    except OSError:
        return "kube-system"


def own_name() -> str:
    """Another one at each start: who is started anew has not held the Lease before."""
    return f"{socket.gethostname()}_{uuid4().hex[:8]}"
