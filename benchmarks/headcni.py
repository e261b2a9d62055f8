"""Ours: a real daemon process on a node of the box, and the plugin as `make install` writes it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agent import own_seconds
from benchmarks.box import Node
from benchmarks.contender import Contender, contender
from deploy import plugin_file
from deploy.launcher import build as launcher
from deploy.launcher.build import NotInstalled
from deploy.memory_image import build as memory_image
from deploy.memory_image import libpython

REPOSITORY = Path(__file__).resolve().parent.parent
POD_CIDR = "10.244.0.0/16"
PATIENCE = 30.0


@dataclass(frozen=True)
class Daemon:
    state: Path
    process: subprocess.Popen[bytes]
    contender: Contender
    started: float  # by the wall clock

    def quiet(self) -> None:
        """Until no attachment is being torn down: what a DEL leaves to do is not charged to the next contender."""
        _until(lambda: not os.listdir(self.state / "attachments"), f"attachments are left in {self.state}")

    def forgotten(self, container: str) -> None:
        record = self.state / "attachments" / f"{container}@eth0.json"
        _until(lambda: not record.exists(), f"{record} is still there")

    def settled(self) -> None:
        """Until every attachment has reached its goal."""

        def all_advertised() -> bool:
            records = (self.state / "attachments").iterdir()
            try:
                return all(b'"state": "advertised"' in record.read_bytes() for record in records)
            except FileNotFoundError:  # one went after it was listed
                return False

        _until(all_advertised, f"attachments in {self.state} are not advertised")

    def processor_seconds(self) -> float:
        """Of all its threads, also of those that have ended. By the kernel's exact clock: the count in clock ticks is
        too coarse for a process that hardly runs."""
        return own_seconds(self.process.pid)

    def ready(self) -> None:
        _until((self.state / "status.json").exists, f"no status.json in {self.state}")


def build_plugin(work: Path, form: str) -> None:
    """Every form that can be made here into a directory of its own; the one asked for into the place of ours, too."""
    for each, make in FORMS.items():
        (work / "forms" / each).mkdir(parents=True)
        try:
            make(work / "forms" / each / "headcni")
        except NotInstalled as why:
            print(f"without the form {each}: {why}", file=sys.stderr)
            (work / "forms" / each).rmdir()
    (work / "bin").mkdir()
    shutil.copy(work / "forms" / form / "headcni", work / "bin")


def _plain(binary: Path) -> None:
    plugin_file.install(plugin_file.build(plugin_file.choose(), plugin_file.PLUGIN.read_bytes()), binary)


def _launcher(binary: Path) -> None:
    launcher.make(launcher.find(), binary)


def _image(binary: Path) -> None:
    memory_image.make(libpython.find(), binary)


FORMS = {"plain": _plain, "launcher": _launcher, "image": _image}


@contextmanager
def daemon(
    node: Node, state: Path, work: Path, pod_cidr: str = POD_CIDR, mesh: str = "--mesh none"
) -> Iterator[Daemon]:
    node.enter()
    state.mkdir(mode=0o700, exist_ok=True)
    ours = contender("headcni", work / "bin" / "headcni", node, work, {"type": "headcni", "state_dir": str(state)})
    log_file = work / f"{state.name}.log"
    with log_file.open("wb") as log:
        flags = f"--state-dir {state} --pod-cidr {pod_cidr} {mesh} --kube off --metrics-port 0"
        command = [sys.executable, "-m", "reconciler.operate.cli", "daemon", *flags.split()]
        started = time.time()
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=log, env=_environment(work))
    try:
        yield Daemon(state, process, ours, started)
    except Exception:
        print("the daemon's last words:", *log_file.read_text().splitlines()[-5:], sep="\n  ", file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(work: Path) -> dict[str, str]:
    """With compiled modules, as an installed daemon has them, whatever the caller's shell says."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(work / "pycache")}


def _until(reached: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint} after {PATIENCE:.0f} s")
        time.sleep(0.002)
