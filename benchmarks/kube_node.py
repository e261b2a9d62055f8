"""A node with an API server: the stand-in, a daemon that is connected to it, a mesh if wanted, kube-proxy if built.

The daemon has guessed its pod CIDR: then it reads all Nodes, to see whether another one has it, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

from benchmarks import headcni, mesh
from benchmarks.agent import running
from benchmarks.box import Node, make_node, make_pod
from benchmarks.contender import contender
from benchmarks.kube_world import NODES, pod_name
from fixtures.peers import MissingPeer, find
from reconciler.node.shares import share

NAME = "node-0"
CIDRS = [share(ip_network(cluster), 24, NAME) for cluster in mesh.CLUSTER.split(",")]
MESH_NUMBER = 9  # of its namespaces; `mesh` has the first ones


@dataclass(frozen=True)
class World:
    """The API server."""

    process: subprocess.Popen[str]
    kubeconfig: Path

    def say(self, *words: object) -> None:
        print(*words, file=self.process.stdin, flush=True)

    def hear(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()


@dataclass(frozen=True)
class Site:
    daemon: headcni.Daemon
    world: World

    def missing(self) -> str:
        """Before it is what is to be measured; empty: nothing."""
        status = json.loads((self.daemon.state / "status.json").read_bytes())
        mesh, kube = status["mesh"], status["kube"]
        wanted = {
            "Node and pods": kube.get("up_to_date"),
            "its condition in its Node": kube.get("condition") == "False HeadCNIIsUp",
            "the list of all Nodes": kube.get("others", {}).get("nodes") == NODES,
            "a mesh in force": mesh["mode"] == "none" or (mesh.get("in_force") and not mesh["missing"]),
        }
        return ", ".join(name for name, there in wanted.items() if not there)

    def attach(self) -> None:
        """Every pod of the node, as a runtime would."""
        plugin = self.daemon.contender
        plugin.node.enter()
        self.world.say("uids")
        for number, uid in enumerate(self.world.hear()):
            names = f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod_name(number)};K8S_POD_UID={uid}"
            environment = plugin.environment | {"CNI_ARGS": f"IgnoreUnknown=1;{names}"}
            replace(plugin, environment=environment).call("ADD", f"pod{number}", make_pod())
        self.daemon.settled()


@contextmanager
def site(node: Node, work: Path, flags: str = "--mesh none") -> Iterator[Site]:
    node.enter()
    with _world(work / f"api-{node.name}") as world:
        state = work / node.name
        state.mkdir(mode=0o700)
        plugin = contender(
            "headcni", work / "bin" / "headcni", node, work, {"type": "headcni", "state_dir": str(state)}
        )
        own = f"--state-dir {state} --cluster-cidr {mesh.CLUSTER} --node-name {NAME}"
        whole = f"{own} --kubeconfig-file {world.kubeconfig} {flags}"
        command = [sys.executable, "-m", "reconciler.operate.cli", "daemon", *whole.split()]
        with running(command, work / f"{node.name}.log", environment(work), headcni.REPOSITORY) as process:
            daemon = headcni.Daemon(state, process, plugin, time.time())
            daemon.ready()
            yield Site(daemon, world)


@contextmanager
def meshed_site(work: Path, peers: int) -> Iterator[Site]:
    """tailscaled is a stand-in, too; the peers' daemons are in its process."""
    node, others = make_node(f"mesh{MESH_NUMBER}"), make_node(f"others{MESH_NUMBER}")
    mesh.furnish(MESH_NUMBER, peers, node, others)
    others.enter()
    for cidr, way in zip(CIDRS, mesh.OTHER_END, strict=True):
        subprocess.run(["ip", "route", "add", str(cidr), "via", way, "dev", "here", "onlink"], check=True)
    socket = work / "tailscaled.sock"
    command = [sys.executable, "-m", "benchmarks.mesh_world", "--socket", str(socket), "--peers", str(peers)]
    with _speaking(command), site(node, work, f"--mesh tailscale --tailscale-socket {socket}") as made:
        yield made


@contextmanager
def kube_proxy(node: Node, work: Path, world: World) -> Iterator[subprocess.Popen[bytes] | None]:
    """None: it is not built here."""
    try:
        program = find("kubernetes-server", "kube-proxy")
    except MissingPeer as missing:
        print(f"{missing}; until then there is nothing to compare with", file=sys.stderr)
        yield None
        return
    node.enter()
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": NAME,
        "clusterCIDR": mesh.CLUSTER,
        "clientConnection": {
            "kubeconfig": str(world.kubeconfig),
            "contentType": "application/json",
            "acceptContentTypes": "application/json",
        },
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # a namespace may not change what is the machine's
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    config = work / "kube-proxy.json"
    config.write_text(json.dumps(settings))
    command = [str(program), f"--config={config}"]
    with running(command, work / "kube-proxy.log", dict(os.environ), work) as process:
        yield process


@contextmanager
def _world(folder: Path) -> Iterator[World]:
    """In the namespace that the caller has entered, by loopback."""
    with _speaking([sys.executable, "-m", "benchmarks.kube_world", "--node", NAME, "--folder", str(folder)]) as process:
        yield World(process, folder / "kubeconfig")


@contextmanager
def _speaking(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """One that says `ready`."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=headcni.REPOSITORY, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{' '.join(command)} did not start")
            yield process
        finally:
            process.terminate()


def environment(work: Path) -> dict[str, str]:
    """With compiled modules, as an installed daemon has them, and without what only developers have installed, which
    the package kubernetes would import, too."""
    absent = work / "absent"
    absent.mkdir(exist_ok=True)
    (absent / "kubernetes_validate.py").write_text("raise ImportError\n")
    unwanted = ("PYTHONDONTWRITEBYTECODE", "KUBERNETES_SERVICE_HOST", "NODE_POD_CIDR")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"PYTHONPYCACHEPREFIX": str(work / "pycache"), "PYTHONPATH": str(absent)}
