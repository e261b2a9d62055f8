"""An API server with a thousand Nodes, in a process: the stand-in, spoken to in lines.

    python -m benchmarks.kube_world --node node-0 --folder DIR

Prints `ready` when DIR/kubeconfig can be used, and lives as long as its standard input. It is a node at rest: each ten
seconds a kubelet's heartbeat changes the Node, and one of its pods changes; each minute there are bookmarks. Told
`churn N`, it makes N changes of pods, faster than any node sees them, and says `done`; told `uids`, it says the UIDs of
the pods that stay. Its own Node has no pod CIDR.

It is reached by TLS, with a token. Its objects and bookmarks say of what kind they are: clients in Go ask for that.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import ssl
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from fixtures.kube.__main__ import large_node, large_pod
from fixtures.kube.pki import Authority
from fixtures.kube.standin import StandIn
from fixtures.kube.store import Body, Change

NODES = 1000
PODS = 110
SERVICES = 50
IMAGES = 25  # of a node, which is 7 KiB large with them
HEARTBEAT = 10.0  # seconds
BOOKMARK = 60.0
EACH = 0.004  # seconds, between two changes of the churn
TOKEN = "bench"
PODS_PATH = "/api/v1/namespaces/default/pods"
STRATEGIC = "application/strategic-merge-patch+json"
KINDS = {
    "nodes": ("v1", "Node"),
    "pods": ("v1", "Pod"),
    "services": ("v1", "Service"),
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "servicecidrs": ("networking.k8s.io/v1", "ServiceCIDR"),
}


class Api(StandIn):
    def _listed(self, request: web.Request, collection: str) -> Body:
        listed = super()._listed(request, collection)
        del listed["kind"], listed["apiVersion"]  # whoever asks knows; `List` is not what the real one says
        return listed

    def bookmark(self) -> None:
        """Of its kind, too."""
        for watcher in self.store.watchers:
            version, kind = KINDS[watcher.collection.rpartition("/")[2]]
            body = {"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": str(self.store.version)}}
            watcher.changes.put_nowait(Change(self.store.version, "BOOKMARK", "", body))


class World:
    def __init__(self, api: Api, node: str) -> None:
        self._api, self._node = api, node
        self._pods = itertools.count(PODS)

    def fill(self) -> None:
        for number in range(NODES):
            self._add("/api/v1/nodes", f"other-{number}" if number else self._node, _node(number))
        for number in range(PODS):
            self._add(PODS_PATH, pod_name(number), self._pod(number, "Running"))
        for number in range(SERVICES):
            name = f"service-{number}"
            self._add("/api/v1/namespaces/default/services", name, _service(number))
            self._add("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", name, _endpoints(number, name))

    async def told(self, word: str, number: str = "") -> list[Any]:
        match word:
            case "churn":
                await self._churn(int(number))
                return ["done"]
            case "uids":
                pods = [self._api.store.read(f"{PODS_PATH}/{pod_name(each)}") for each in range(PODS)]
                return [pod["metadata"]["uid"] for pod in pods]
        raise ValueError(word)

    async def heartbeats(self) -> None:
        for number in itertools.count():
            await asyncio.sleep(HEARTBEAT)
            beat = [{"type": kind, "lastHeartbeatTime": _now()} for kind in ("Ready", "MemoryPressure", "DiskPressure")]
            self._patch(f"/api/v1/nodes/{self._node}", {"status": {"conditions": beat}})
            self._change(number % PODS)

    async def bookmarks(self) -> None:
        while True:
            await asyncio.sleep(BOOKMARK)
            self._api.bookmark()

    async def _churn(self, changes: int) -> None:
        """Half of them are of pods that stay; the other half are jobs, each of which comes, works and goes."""
        jobs = self._jobs()
        for number in range(changes):
            next(jobs) if number % 2 else self._change(number // 2 % PODS)
            await asyncio.sleep(EACH)

    def _jobs(self) -> Iterator[None]:
        for number in self._pods:
            path = f"{PODS_PATH}/{pod_name(number)}"
            self._api.store.add(path, self._pod(number, "Pending"))
            yield
            for phase in ("Running", "Succeeded"):
                self._patch(path, {"status": {"phase": phase}})
                yield
            self._api.store.remove(path)
            yield

    def _change(self, number: int) -> None:
        condition = {"type": "Ready", "status": "True", "message": str(self._api.store.version)}
        self._patch(f"{PODS_PATH}/{pod_name(number)}", {"status": {"conditions": [condition]}})

    def _pod(self, number: int, phase: str) -> Body:
        pod = large_pod(number)
        return {**pod, "spec": {**pod["spec"], "nodeName": self._node}, "status": {**pod["status"], "phase": phase}}

    def _add(self, collection: str, name: str, body: Body) -> None:
        version, kind = KINDS[collection.rpartition("/")[2]]
        self._api.store.add(f"{collection}/{name}", {"kind": kind, "apiVersion": version, **body})

    def _patch(self, path: str, patch: Body) -> None:
        self._api.store.patch(path, patch, STRATEGIC)


def pod_name(number: int) -> str:
    return f"application-{number % 10}-{number:x}"


def _node(number: int) -> Body:
    node = large_node(number)
    return {
        **node,
        "spec": node["spec"] if number else {},
        "status": {**node["status"], "images": node["status"]["images"][:IMAGES]},
    }


def _service(number: int) -> Body:
    address = f"10.96.0.{number + 10}"
    ports = [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}]
    spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ports": ports}
    return {"metadata": {"namespace": "default"}, "spec": spec}


def _endpoints(number: int, service: str) -> Body:
    addresses = [f"10.244.{number}.{each}" for each in range(2, 5)]
    return {
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in addresses],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kube_world", description=__doc__)
    parser.add_argument("--node", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(_serve(options.node, options.folder))


async def _serve(node: str, folder: Path) -> None:
    authority = Authority(folder)
    pair = authority.issue("apiserver", "kube-apiserver", names=("127.0.0.1",))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    async with Api(tls=tls, bookmarks=86400.0) as api:
        api.tokens.add(TOKEN)
        world = World(api, node)
        world.fill()
        background = [asyncio.create_task(each) for each in (world.heartbeats(), world.bookmarks())]
        (folder / "kubeconfig").write_text(json.dumps(_kubeconfig(api.url, authority.certificate.read_bytes())))
        print("ready", flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).split():
            print(*await world.told(*line), flush=True)
        for task in background:
            task.cancel()


def _kubeconfig(url: str, authority: bytes) -> dict[str, Any]:
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(authority).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "bench", "user": {"token": TOKEN}}],
    }


if __name__ == "__main__":
    main()
