"""A real API server, and a node whose only way out leads to it.

    with Cluster(work_dir) as cluster:
        cluster.add_node("worker-1")
        with cluster.dead():
            ...

The way can be taken away in two manners: by the route, which the node notices at once, or silently, as by a switch that
lost its power.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from fixtures.kube.server import RBAC, KubeServer
from fixtures.lab import Host, Lab
from reconciler.kube.rbac import Role, manifests

RETRY = 16.0  # seconds, of the API server's TCP, doubled at each try: as after minutes of silence
ACCOUNT = "system:serviceaccount:default:headcni"
BINDINGS = f"{RBAC}/clusterrolebindings"
NODES, DEFAULT = "/api/v1/nodes", "/api/v1/namespaces/default"
MERGE = "application/merge-patch+json"
TAINT = {"key": "headcni.io/not-ready", "effect": "NoSchedule"}


class Cluster:
    server: KubeServer

    def __init__(self, work_dir: Path) -> None:
        self._lab = Lab(1)
        (self.node,) = self._lab.nodes
        self._control = Host(self._lab, "control", 50)
        self._work_dir = work_dir
        self._undo = ExitStack()

    def __enter__(self) -> Cluster:
        with ExitStack() as undo:
            undo.enter_context(self._lab)
            self._lab.add_host(self._control)
            self.node.run("sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=1")
            self.node.run("ip", "route", "delete", "192.168.77.0/24", "dev", "eth0")
            assert self.node.run("ip", "route", "show") == ""
            self.node.run("ip", "route", "add", f"{self._control.address}/32", "dev", "eth0")
            self._control.run("ip", "route", "change", "192.168.77.0/24", "dev", "eth0", "rto_min", f"{RETRY:.0f}s")
            self.server = undo.enter_context(KubeServer(self._work_dir, self._control))
            role, self._binding = manifests(Role.DAEMON, "default")
            self.server.call("POST", f"{RBAC}/clusterroles", role)
            self.grant()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._undo.close()

    # --- what goes wrong

    @contextmanager
    def dead(self) -> Iterator[None]:
        """The API server, by SIGKILL; in the end it is there again."""
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()

    def restart(self) -> None:
        with self.dead():
            pass

    @contextmanager
    def no_way(self) -> Iterator[None]:
        route = (f"{self._control.address}/32", "dev", "eth0")
        self.node.run("ip", "route", "delete", *route)
        try:
            yield
        finally:
            self.node.run("ip", "route", "add", *route)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """The link stays up, and no packet of the node passes."""

        def port(state: str) -> None:
            self._lab.lan.run("bridge", "link", "set", "dev", self.node.label, "state", state)

        port("0")
        try:
            yield
        finally:
            port("3")

    # --- what an administrator does

    def credentials(self, user: dict[str, str] | None = None, authority: Path | None = None) -> Path:
        """The daemon's kubeconfig is written anew, by default with a new token."""
        return self.server.kubeconfig("daemon", user or {"token": self.server.token("headcni")}, authority=authority)

    def grant(self) -> None:
        self.server.call("POST", BINDINGS, self._binding)
        self.server.wait_may(ACCOUNT, "get", "nodes")

    def revoke(self) -> None:
        self.server.call("DELETE", f"{BINDINGS}/headcni")
        self.server.wait_may(ACCOUNT, "get", "nodes", wanted=False)

    def add_node(self, name: str) -> None:
        self.server.call("POST", NODES, {"metadata": {"name": name}, "spec": {"taints": [TAINT]}})

    def delete_node(self, name: str) -> None:
        self.server.call("DELETE", f"{NODES}/{name}")

    def change_node(self, name: str, **spec: Any) -> None:
        self.server.call("PATCH", f"{NODES}/{name}", {"spec": spec}, MERGE)

    def take_annotation(self, name: str) -> None:
        self.server.call("PATCH", f"{NODES}/{name}", {"metadata": {"annotations": {"headcni.io/version": None}}}, MERGE)

    def add_pod(self, name: str, node: str, address: str = "") -> str:
        """Its UID. With `address` as the kubelet would report it."""
        container = {"name": "main", "image": "none"}
        body = {"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [container]}}
        made = self.server.call("POST", f"{DEFAULT}/pods", body)
        if address:
            told = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
            self.server.call("PATCH", f"{DEFAULT}/pods/{name}/status", told, MERGE)
        return str(made["metadata"]["uid"])

    def delete_pod(self, name: str) -> None:
        self.server.call("DELETE", f"{DEFAULT}/pods/{name}?gracePeriodSeconds=0")

    # --- what is told there

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.call("GET", f"{NODES}/{name}")
        return found

    def tainted(self, name: str) -> bool:
        return TAINT in self.get(name)["spec"].get("taints", [])

    def condition(self, name: str) -> tuple[str, str] | None:
        conditions = self.get(name)["status"].get("conditions", [])
        return next(((e["status"], e["reason"]) for e in conditions if e["type"] == "NetworkUnavailable"), None)

    def annotations(self, name: str) -> dict[str, str]:
        """Without the prefix."""
        found = self.get(name)["metadata"].get("annotations", {})
        return {key.partition("/")[2]: value for key, value in found.items() if key.startswith("headcni.io/")}

    def events(self, about: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.server.call("GET", f"{DEFAULT}/events")["items"]
        return [each for each in found if each["involvedObject"]["name"] == about]
