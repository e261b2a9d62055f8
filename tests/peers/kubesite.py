"""The real daemon on a node beside a real API server, and what must be so soon after each change.

with KubeSite(cluster, "worker-1", state_dir) as site:
    site.soon_tells(UP)
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubecluster import TAINT, Cluster

from fixtures.processes import REPOSITORY, DaemonProcess
from fixtures.site import Site

SOON = 5.0  # seconds within which the Node and the status are right after each change
UP, DOWN = ("False", "HeadCNIIsUp"), ("True", "HeadCNIIsNotReady")
KUBELET, OWN = "var/lib/kubelet/config.yaml", "10.244.1.0/24"  # a file of the node, and what it says


def until(holds: Callable[[], object], within: float, otherwise: Callable[[], object]) -> float:
    """Seconds that it took. Looked at ten times a second, for each look may be a call that costs the machine."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within, f"not so within {within} s: {otherwise()}"
        time.sleep(0.1)
    return time.monotonic() - began


class KubeSite(Site):
    def __init__(self, cluster: Cluster, name: str, state_dir: Path) -> None:
        super().__init__(cluster.node, state_dir)
        self.cluster = cluster
        self.name = name
        self.downs: list[tuple[float, float]] = []  # when no daemon ran
        self.conf["ipam"] = {"type": "headcni-ipam", "cooldown_seconds": 0}
        self.wrap()

    def wrap(self, *wrapper: str) -> None:
        """The daemon that is started next is run by this. Its pod CIDR is found, not given."""
        given = ("--kube", "auto", "--node-name", self.name, "--kubeconfig-file", str(self.cluster.credentials()))
        self.daemon = DaemonProcess(self.node, self.state_dir, *given, wrapper=wrapper)

    def run_daemon(self) -> None:
        self.daemon.start()
        self.daemon.wait_ready()

    @contextmanager
    def killed(self) -> Iterator[None]:
        """By SIGKILL; then started again, until it serves pods. Perhaps it is not ready."""
        began = time.monotonic()
        self.daemon.kill()
        yield
        self.daemon.start()
        until(lambda: self.daemon.status().get("pid") == self.daemon.pid, 10, self.daemon.log_tail)
        self.downs.append((began, time.monotonic()))

    def restart(self) -> None:
        with self.killed():
            pass

    def command(self, *words: str) -> str:
        """What `headcni` prints."""
        program = (sys.executable, "-m", "reconciler.operate.cli", *words, "--state-dir", str(self.state_dir))
        whole = self.node.command(*program)
        return subprocess.run(whole, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=30).stdout

    # --- what must be so soon; how long it took is printed

    @property
    def kube(self) -> dict[str, Any]:
        found: dict[str, Any] = self.daemon.status().get("kube", {})
        return found

    def soon(self, holds: Callable[[], object], what: str, within: float = SOON) -> None:
        took = until(holds, within, lambda: f"{what}\n{self.kube}\n{self.daemon.log_tail()}")
        print(f"{took:.1f} s: {what}")

    def soon_tells(self, wanted: tuple[str, str]) -> None:
        self.soon(lambda: self.cluster.condition(self.name) == wanted, f"{wanted[1]} is told")

    def soon_names(self, code: int, *words: str, within: float = SOON) -> None:
        """As what is wrong with Kubernetes."""

        def named() -> bool:
            trouble = self.kube.get("trouble") or {}
            return trouble.get("code") == code and all(each in trouble["what"] for each in words)

        self.soon(named, f"{int(code)} {words} is named", within)

    def soon_needs(self, code: int, *words: str) -> None:
        """What it has not, and does not know before it needs it: so it is given something to do. (What it has just
        done, it does again only after some seconds.)"""
        self.cluster.change_node(self.name, taints=[TAINT])
        self.soon_names(code, *words, within=2 * SOON)

    def soon_told_all(self) -> None:
        """What there is to tell at present, by this daemon: annotations come first, events right after them."""
        self.cluster.take_annotation(self.name)
        self.soon_annotates()

    def soon_annotates(self, within: float = SOON) -> None:
        self.soon(lambda: "version" in self.cluster.annotations(self.name), "annotated", within)

    def soon_works(self) -> None:
        """The status says so, and the daemon sees what is done to its Node, and may change it."""
        self.soon(lambda: self.kube.get("up_to_date") and not self.kube["trouble"], "up to date")
        self.cluster.change_node(self.name, taints=[TAINT])
        self.soon_untaints(2 * SOON)

    def soon_untaints(self, within: float = SOON) -> None:
        self.soon(lambda: not self.cluster.tainted(self.name), "untainted", within)
