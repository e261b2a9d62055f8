"""The finder with its real parts: files, threads and a server that comes, goes, and changes its mind."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from fixtures.headscale import Fault
from fixtures.kube.standin import StandIn
from reconciler.kube import assemble, finder, surroundings
from reconciler.kube.assemble import make_finder
from reconciler.kube.candidates import SERVICE_ACCOUNT, Origin
from reconciler.kube.codes import Trouble
from tests.kube.clients import config, document, write

PATIENCE = 15.0
REVIEWS = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Finding:
    def __init__(self, root, **given):
        self.published = []
        self._news = asyncio.Event()
        settings = config(**{"node.root": str(root), **given})
        self.finder = make_finder(lambda: settings, "worker", self._publish, {})

    def _publish(self, reaching):
        self.published.append(reaching)
        self._news.set()

    async def until(self, holds):
        async with asyncio.timeout(PATIENCE):
            while not (self.published and holds(self.published[-1])):
                self._news.clear()
                await self._news.wait()
        return self.published[-1]

    async def __aenter__(self):
        self._task = asyncio.create_task(self.finder.run())
        return self

    async def __aexit__(self, *error):
        self._task.cancel()
        await asyncio.wait([self._task])


def run(play):
    async def bounded():
        async with StandIn() as server:
            server.tokens.add("token")
            return await play(server)

    return asyncio.run(bounded())


@pytest.fixture
def kubelet(tmp_path):
    """The kubelet's kubeconfig on a host whose root is `tmp_path`."""
    file = tmp_path / "etc/kubernetes/kubelet.conf"
    file.parent.mkdir(parents=True)
    return file


def refusal_of(reaching, origin):
    return next(each.refusal for each in reaching.tried if each.candidate.origin is origin)


def test_a_node_with_nothing_says_what_was_looked_for(tmp_path):
    async def play(server):
        async with Finding(tmp_path) as finding:
            await finding.until(lambda reaching: reaching.refusal is not None)
            return finding.finder.reaching

    reaching = run(play)
    assert reaching.tried == ()
    assert "/var/lib/rancher/k3s/agent/kubelet.kubeconfig" in reaching.refusal.msg


def test_the_kubelet_s_way_is_found_when_its_file_appears(tmp_path, kubelet):
    async def play(server):
        async with Finding(tmp_path) as finding:
            await finding.until(lambda reaching: reaching.endpoint is None)
            write(kubelet, document(server.url, {"token": "token"}))
            reaching = await finding.until(lambda reaching: reaching.endpoint)
            assert reaching.endpoint == f"{server.url} with the token of user someone in /etc/kubernetes/kubelet.conf"
            api = await finding.finder.api()
            server.add_node("worker")
            return await api.get("/api/v1/nodes/worker")

    assert run(play)["metadata"]["name"] == "worker"


def test_a_configured_way_that_is_down_gives_way_to_the_kubelet_s(tmp_path, kubelet):
    async def play(server):
        write(kubelet, document(server.url, {"token": "token"}))
        async with Finding(tmp_path, **{"kube.url": "https://127.0.0.1:1"}) as finding:
            return await finding.until(lambda reaching: reaching.endpoint)

    reaching = run(play)
    assert [each.candidate.origin for each in reaching.tried] == [Origin.URL, Origin.KUBELET]
    assert "connection refused" in refusal_of(reaching, Origin.URL).msg


def test_each_change_of_the_server_is_known_soon(tmp_path, kubelet):
    async def play(server):
        write(kubelet, document(server.url, {"token": "token"}))
        async with Finding(tmp_path) as finding:
            await finding.until(lambda reaching: reaching.endpoint)
            api = await finding.finder.api()

            async def gone():
                await api.get("/api/v1/nodes/worker")  # a call that fails puts the way in doubt
                reaching = await finding.until(lambda reaching: reaching.endpoint is None)
                return refusal_of(reaching, Origin.KUBELET).code

            async def back():
                await finding.until(lambda reaching: reaching.endpoint)
                assert await finding.finder.api() is api

            codes = []
            server.denied["token"] = {("get", "nodes")}
            codes.append(await gone())
            server.denied.clear()
            await back()
            server.tokens.discard("token")
            server.tokens.add("another")
            codes.append(await gone())
            server.tokens.add("token")
            await back()
            await server.stop()
            codes.append(await gone())
            await server.start()
            await back()
            return codes

    assert run(play) == [Trouble.API_FORBIDDEN, Trouble.API_CREDENTIALS, Trouble.API_UNREACHABLE]


def test_lost_rights_are_noticed_some_time_though_nobody_asks_for_anything(tmp_path, kubelet, monkeypatch):
    monkeypatch.setattr(finder, "SEARCH", (0.5, 0.5))

    async def play(server):
        write(kubelet, document(server.url, {"token": "token"}))
        async with Finding(tmp_path) as finding:
            await finding.until(lambda reaching: reaching.endpoint)
            server.denied["token"] = {("get", "nodes")}
            await finding.until(lambda reaching: reaching.endpoint is None)

    run(play)


async def looked_at(server):
    """Until the way, or what might be one, was asked twice more: what the first of it told has been heard."""
    asked = server.calls.count(REVIEWS)
    async with asyncio.timeout(PATIENCE):
        while server.calls.count(REVIEWS) < asked + 2:  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.01)


def test_a_server_that_is_busy_is_not_left(tmp_path, kubelet, monkeypatch):
    """Which it says to whomever it lets in. Another way would lead to the same server."""
    monkeypatch.setattr(finder, "SEARCH", (0.2, 0.2))

    async def play(server):
        server.inject("POST", "/selfsubjectaccessreviews", Fault(status=429))
        write(kubelet, document(server.url, {"token": "token"}))
        async with Finding(tmp_path) as finding:
            await finding.until(lambda reaching: reaching.tried)
            api = await finding.finder.api()
            await looked_at(server)
            assert await finding.finder.api() is api
            return [each.endpoint for each in finding.published]

    assert all(run(play))


def test_a_look_that_takes_too_long_loses_no_way_that_was_there(tmp_path, kubelet, monkeypatch):
    """As on a file system that hangs for a while."""
    release, right = threading.Event(), surroundings.look
    monkeypatch.setattr(assemble, "LOOK", 0.2)
    monkeypatch.setattr(assemble, "PROCESSES", 0.0)
    monkeypatch.setattr(finder, "SEARCH", (0.2, 0.2))

    async def play(server):
        write(kubelet, document(server.url, {"token": "token"}))
        async with Finding(tmp_path) as finding:
            await finding.until(lambda reaching: reaching.endpoint)
            api = await finding.finder.api()
            monkeypatch.setattr(surroundings, "look", lambda *given: release.wait() and right(*given))
            await looked_at(server)
            assert await finding.finder.api() is api
            release.set()
            return [each.endpoint for each in finding.published]

    assert all(run(play))


def test_all_processes_are_looked_at_rarely_but_a_file_that_appears_is_seen_at_once(tmp_path, kubelet, monkeypatch):
    looked, right = [], surroundings.look

    def look(*given):
        looked.append(kubelet.exists())
        return right(*given)

    monkeypatch.setattr(surroundings, "look", look)

    async def play(server):
        server.inject("POST", "/selfsubjectaccessreviews", Fault(status=500))
        async with Finding(tmp_path, **{"kube.url": server.url}) as finding:
            await looked_at(server)
            assert looked == [False]
            write(kubelet, document(server.url, {"token": "token"}))
            await finding.until(lambda reaching: len(reaching.tried) == 2)

    run(play)
    assert looked == [False, True]


def test_a_server_that_hangs_is_not_waited_for(tmp_path, kubelet):
    async def play(server):
        server.inject("POST", "/selfsubjectaccessreviews", Fault(hang=True))
        write(kubelet, document(server.url, {"token": "token"}))
        async with Finding(tmp_path) as finding:
            began = asyncio.get_running_loop().time()
            reaching = await finding.until(lambda reaching: reaching.tried)
            return reaching, asyncio.get_running_loop().time() - began

    reaching, took = run(play)
    assert took < 5
    assert "does not answer in time" in reaching.refusal.msg


def test_without_a_candidate_the_package_is_never_imported(tmp_path):
    """In a process of its own, for here it has been imported long ago."""
    program = (
        "import asyncio, sys\n"
        "from reconciler.kube.assemble import make_finder\n"
        "from reconciler.config import load\n"
        "async def main():\n"
        "    found = asyncio.Event()\n"
        "    given = load({'node.root': sys.argv[1]}, {}, None)\n"
        "    finder = make_finder(lambda: given, 'n', lambda reaching: found.set(), {})\n"
        "    task = asyncio.create_task(finder.run())\n"
        "    await found.wait()\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
        "print(sorted({'kubernetes', 'urllib3', 'requests', 'yaml'} & set(sys.modules)))\n"
    )

    async def play():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            printed, _ = await process.communicate()
        return printed.decode().strip()

    assert not (SERVICE_ACCOUNT / "token").exists()
    assert asyncio.run(play()) == "[]"
