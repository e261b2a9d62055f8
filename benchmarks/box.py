"""A box of namespaces: nodes and pods that exist for this run only.

The run executes itself again under `unshare`, as process 1 of its own process namespace. When it ends, by itself, by
Ctrl-C or by SIGKILL, the kernel ends every process in the box, and with the last one all mounts, links and namespaces
are gone. Pods are made before the clock starts and kept until the end: taking namespaces down keeps the kernel
busy for long, and would be charged to whoever comes next.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INSIDE = "HEADCNI_BENCH_BOX"
NEWNET = 0x40000000
BIND = 0x1000
PARENT_DEATH_SIGNAL = 1

_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count(1)


def run_inside(work: Path, arguments: list[str], environment: dict[str, str]) -> int:
    if shutil.which("unshare") is None:
        raise SystemExit("unshare is missing; on Debian: apt-get install util-linux")
    namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    rootless = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *rootless, *namespaces, sys.executable, "-m", "benchmarks", *arguments]
    try:
        run = subprocess.run(command, env=environment | {INSIDE: str(work)}, check=False, preexec_fn=_die_with_parent)
        return run.returncode
    except KeyboardInterrupt:
        return 130


def _die_with_parent() -> None:
    _libc.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def work_directory() -> Path | None:
    """Where to put files; None outside the box."""
    found = os.environ.get(INSIDE)
    return Path(found) if found else None


def furnish() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    Path("/run/netns").mkdir()


@dataclass(frozen=True)
class Node:
    """A network namespace that plays a node. What is started after `enter` lives there."""

    name: str
    fd: int

    def enter(self) -> None:
        _checked(_libc.setns(self.fd, NEWNET), f"setns to {self.name}")


def make_node(name: str) -> Node:
    path = make_pod(name)
    node = Node(name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    node.enter()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return node


def make_pod(name: str = "") -> str:
    """A new network namespace under a path, as a runtime makes one. The caller's namespace stays what it is."""
    path = f"/run/netns/{name or f'pod{next(_serial)}'}"
    Path(path).touch()
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _checked(_libc.unshare(NEWNET), "unshare")
    _checked(_libc.mount(b"/proc/self/ns/net", path.encode(), None, BIND, None), f"mount on {path}")
    _checked(_libc.setns(before, NEWNET), "setns back")
    os.close(before)
    return path


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
