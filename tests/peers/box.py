"""A box: a machine of its own, as far as namespaces can give one, for the programs of a test.

Network, mounts, processes, control groups, host name: all are its own, and all end with its first process, which
ends when the test's end of a pipe closes. So nothing is left behind however a test ends, and nobody hunts
for processes. What is left of a test run that was itself killed is found by its control groups, as for a cluster
(`fixtures/cluster/groups.py`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fixtures.cluster import groups
from fixtures.cluster.groups import Groups

NAME, PLACE = "headcni-peers", "box"
NODE_IP = "192.168.66.1"
JOIN = """
if [ -d /sys/fs/cgroup/init ]; then echo $$ > /sys/fs/cgroup/init/cgroup.procs
else for group in /sys/fs/cgroup/*; do echo $$ > $group/cgroup.procs; done; fi
"""  # entering namespaces does not enter a control group


class Box:
    def __init__(self) -> None:
        _sweep()
        self.work = Path(tempfile.mkdtemp(prefix=f"{NAME}-{os.getpid()}-"))
        self._groups = Groups(self.work, os.getpid())
        self._programs: list[subprocess.Popen[bytes]] = []
        self._first: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Box:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._groups.make(PLACE)
        if groups.is_version_2():
            (self.work / "cgroup2").touch()
        enter = 'for entrance in "$@"; do echo $$ > "$entrance"; done; exec '
        unshare = "unshare --net --mount --pid --uts --ipc --cgroup --fork --kill-child=SIGKILL --propagation private"
        script = f"{enter} {unshare} sh {Path(__file__).with_suffix('.sh')} {self.work}"
        command = ["sh", "-c", script, "sh", *map(str, self._groups.entrances(PLACE))]
        with self.log("box").open("wb") as log:
            self._first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert self._first.stdout
        if self._first.stdout.readline() != b"ready\n":
            raise RuntimeError(f"a box could not be made here: {self.log('box').read_text()}")
        self._groups.settle(PLACE)

    def close(self) -> None:
        if self._first:
            self._first.kill()
            self._first.wait()
            for pipe in (self._first.stdin, self._first.stdout):
                assert pipe
                pipe.close()
        for program in self._programs:
            program.wait()
        self._groups.end()
        shutil.rmtree(self.work)

    def inside(self, path: str) -> Path:
        """Where the test sees a folder of the box that box.sh put on a real file system."""
        return self.work / path.lstrip("/")

    def command(self, command: Sequence[object], environment: dict[str, str] | None = None) -> list[str]:
        assert self._first
        pid = self._first.pid
        enter = ["nsenter", "-t", str(pid), "-m", "-n", "-u", "-i", "-C", f"--pid=/proc/{pid}/ns/pid_for_children"]
        settings = [f"{name}={value}" for name, value in (environment or {}).items()]
        return [*enter, "env", *settings, *map(str, command)]

    def run(
        self, *command: object, check: bool = True, stdin: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(command, environment), input=stdin, capture_output=True, text=True, timeout=120
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def start(self, name: str, *command: object, environment: dict[str, str] | None = None) -> Program:
        noted = self.work / f"{name}.pid"
        noting = ["sh", "-c", JOIN + 'echo $$ > "$0.new"; mv "$0.new" "$0"; exec "$@"', noted, *command]
        noted.unlink(missing_ok=True)
        with self.log(name).open("ab") as log:
            popen = subprocess.Popen(
                self.command(noting, environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._programs.append(popen)
        eventually(lambda: noted.exists() or popen.poll() is not None, f"{name} to start")
        if not noted.exists():
            raise AssertionError(f"{name} could not be started: {self.log(name).read_text()}")
        return Program(self, popen, noted.read_text().strip())

    def log(self, name: str) -> Path:
        return self.work / f"{name}.log"

    def link_names(self) -> set[str]:
        return {path.name for path in map(Path, self.run("sh", "-c", "echo /sys/class/net/*").stdout.split())}


class Program:
    """A process that runs in a box."""

    def __init__(self, box: Box, popen: subprocess.Popen[bytes], pid: str) -> None:
        self._box, self._popen, self.pid = box, popen, pid

    def signal(self, name: str) -> None:
        self._box.run("sh", "-c", f"kill -{name} {self.pid}")

    def wait(self, timeout: float = 20) -> int:
        return self._popen.wait(timeout)

    def alive(self) -> bool:
        return self._popen.poll() is None


def eventually(
    holds: Callable[[], object], what: str, timeout: float = 30, told: Callable[[], object] | None = None
) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s for {what}" + (f"; now: {told()}" if told else ""))
        time.sleep(0.05)


def _sweep() -> None:
    """What a test run left behind that was itself killed."""
    groups.end_ownerless()
    for path in Path(tempfile.gettempdir()).glob(f"{NAME}-*"):
        if not Path("/proc", path.name.removeprefix(f"{NAME}-").partition("-")[0]).exists():
            shutil.rmtree(path, ignore_errors=True)  # another run may sweep, too
