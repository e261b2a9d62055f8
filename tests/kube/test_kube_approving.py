"""The approver with its nodes from Kubernetes: what one Lease, one API and one Headscale make of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import pytest

from cni.spec import Refusal
from fixtures.headscale import HeadscaleServer
from fixtures.kube.fake_api import FakeApi
from fixtures.kube.standin import StandIn
from reconciler.kube import approving
from reconciler.kube.approving import approve, approve_once, beside
from reconciler.kube.codes import Trouble
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.settings import any_networks
from tests.kube import samples
from tests.kube.clients import document, write

CLUSTER = any_networks("10.244.0.0/16")
LEASE = "/apis/coordination.k8s.io/v1/namespaces/mesh/leases/headcni-approver"


class Finder:
    def __init__(self, api):
        self.found = api

    async def api(self):
        if self.found is None:
            await asyncio.Event().wait()
        return self.found


def on(body):
    """`body(api, headscale, tailnet)`; worker-1 announces its pods, and Kubernetes knows who it is."""

    async def run():
        async with HeadscaleServer("0.29") as server:
            server.tailnet.add("worker-1", [samples.CIDR])
            client = HeadscaleClient(server.url, lambda: server.key, timeout=5)
            api = FakeApi()
            (known,) = await client.nodes()
            annotations = {"headcni.io/tailnet-node-key": known.key}
            api.put(samples.NODE, samples.node(annotations=annotations))
            try:
                await body(api, client, server.tailnet)
            finally:
                await client.close()

    asyncio.run(run())


async def eventually(holds):
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # the stand-in has nobody to say so
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(api, client, me="a"):
    task = asyncio.create_task(approve(Finder(api), client, CLUSTER, "mesh", me))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


def test_a_single_round_approves_what_the_cluster_gave_and_needs_no_lease():
    async def body(api, client, tailnet):
        done = await approve_once(Finder(api), client, CLUSTER)
        assert [str(each) for each in done.changes] == [f"approved {samples.CIDR} for worker-1 (node 1)"]
        assert done.problems == ()
        assert set(tailnet.approved(1)) == {samples.CIDR}
        assert LEASE not in api.objects

    on(body)


def test_without_an_api_a_single_round_ends_with_a_reason(monkeypatch):
    monkeypatch.setattr(approving, "PATIENCE", 0.05)

    async def body(api, client, tailnet):
        done = await approve_once(Finder(None), client, CLUSTER)
        assert isinstance(done, Refusal)
        assert done.code == Trouble.API_UNREACHABLE
        assert set(tailnet.approved(1)) == set()

    on(body)


def test_who_leads_approves_and_gives_the_lease_back_at_the_end():
    async def body(api, client, tailnet):
        async with running(api, client):
            await eventually(lambda: tailnet.approved(1))
            assert api.objects[LEASE]["spec"]["holderIdentity"] == "a"
        assert api.objects[LEASE]["spec"]["holderIdentity"] == ""

    on(body)


def test_who_does_not_lead_does_not_even_look():
    async def body(api, client, tailnet):
        body = {"spec": {"holderIdentity": "other", "leaseDurationSeconds": 15}}
        api.put(LEASE, body)
        async with running(api, client):
            await eventually(lambda: api.asked("get"))
            await api.heard()
            assert api.asked("watch") == []
        assert set(tailnet.approved(1)) == set()
        assert api.objects[LEASE]["spec"]["holderIdentity"] == "other"

    on(body)


def test_a_fault_of_what_runs_beside_ends_both():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    async def broken():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(beside(broken(), work()))
    assert ended == ["work"]


def test_what_runs_beside_ends_last():
    """The Lease must be given back through an API that is still open."""
    order = []

    async def part(name):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            order.append(name)

    async def body():
        both = asyncio.create_task(beside(part("finder"), part("work")))
        await asyncio.sleep(0.01)
        both.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await both

    asyncio.run(body())
    assert order == ["work", "finder"]


# --- the command


async def command(*arguments, environment):
    """`headcni approver`, as a process."""
    whole = (sys.executable, "-m", "reconciler.operate.cli", "approver", "--cluster-cidr", "10.244.0.0/16", *arguments)
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    return await asyncio.create_subprocess_exec(*whole, env={**os.environ, **environment}, **pipes)


async def site(body, tmp_path):
    """`body(arguments, environment, server, api)`: a Headscale and an API server that know worker-1."""
    async with HeadscaleServer("0.29") as server, StandIn() as api:
        server.tailnet.add("worker-1", [samples.CIDR])
        client = HeadscaleClient(server.url, lambda: server.key, timeout=5)
        (known,) = await client.nodes()
        await client.close()
        api.store.add(samples.NODE, samples.node(annotations={"headcni.io/tailnet-node-key": known.key}))
        kubeconfig = write(tmp_path / "kubeconfig", document(api.url))
        arguments = ("--kube", "--kubeconfig-file", str(kubeconfig), "--headscale-url", server.url)
        await body(arguments, {"HEADCNI_API_KEY": server.key}, server, api)


def test_the_command_does_one_round_and_says_what_it_did(tmp_path):
    async def body(arguments, environment, server, api):
        process = await command(*arguments, "--once", environment=environment)
        out, err = await process.communicate()
        assert process.returncode == 0, err
        assert out.decode() == f"approved {samples.CIDR} for worker-1 (node 1)\n"

    asyncio.run(site(body, tmp_path))


def test_the_command_leads_until_it_is_stopped_and_gives_the_lease_back(tmp_path):
    path = "/apis/coordination.k8s.io/v1/namespaces/mesh/leases/headcni-approver"

    async def body(arguments, environment, server, api):
        process = await command(*arguments, "--lease-namespace", "mesh", environment=environment)
        await eventually(lambda: server.tailnet.approved(1))
        assert api.store.read(path)["spec"]["holderIdentity"]
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
        assert process.returncode == 0, err
        assert api.store.read(path)["spec"]["holderIdentity"] == ""

    asyncio.run(site(body, tmp_path))
