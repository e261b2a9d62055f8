"""One call of a CNI plugin, as a runtime makes it, and how long it took.

The bench plays libcni: environment, configuration on standard input, answer on standard output, exit code. It
starts the plugin with posix_spawn, which costs least and the same for everybody, and the clock runs from there until
the process has been reaped.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.box import Node

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class CallFailed(Exception):
    """The plugin refused; a benchmark of failures would be a benchmark of nothing."""


@dataclass(frozen=True)
class Contender:
    name: str
    binary: Path
    node: Node
    config_file: Path
    environment: dict[str, str] = field(repr=False)

    def call(self, verb: str, container: str = "", pod: str = "") -> float:
        """Seconds."""
        began = time.perf_counter()
        call = self.start(verb, container, pod)
        answer = call.read()
        status = call.reap()
        took = time.perf_counter() - began
        if status:
            raise CallFailed(f"{self.name} {verb} {container}: {answer.decode(errors='replace')}")
        return took

    def start(self, verb: str, container: str = "", pod: str = "") -> Call:
        """In the node's namespace, which the caller has entered."""
        environment = self.environment | {"CNI_COMMAND": verb}
        if container:
            environment |= {"CNI_CONTAINERID": container, "CNI_NETNS": pod, "CNI_IFNAME": "eth0"}
        reading, writing = os.pipe2(os.O_CLOEXEC)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, str(self.config_file), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writing, 1),
        ]
        pid = os.posix_spawn(self.binary, [str(self.binary)], environment, file_actions=actions)
        os.close(writing)
        return Call(pid, reading)


@dataclass(frozen=True)
class Call:
    pid: int
    answer: int

    def read(self) -> bytes:
        pieces = []
        while piece := os.read(self.answer, 65536):
            pieces.append(piece)
        os.close(self.answer)
        return b"".join(pieces)

    def reap(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def contender(name: str, binary: Path, node: Node, work: Path, config: dict[str, Any]) -> Contender:
    config_file = work / f"{name}-{node.name}.json"
    config_file.write_text(json.dumps({"cniVersion": "1.0.0", "name": f"bench-{name}", **config}))
    return Contender(name, binary, node, config_file, {"PATH": PATH, "CNI_PATH": str(binary.parent)})


def ptp(plugins: Path, node: Node, work: Path) -> Contender:
    ipam = _host_local(work, "ptp", "10.120.0.0/16")
    return contender("ptp", plugins / "ptp", node, work, {"type": "ptp", "ipMasq": False, "ipam": ipam})


def bridge(plugins: Path, node: Node, work: Path) -> Contender:
    ipam = _host_local(work, "bridge", "10.121.0.0/16")
    config = {"type": "bridge", "bridge": "bench0", "isGateway": True, "ipMasq": False, "ipam": ipam}
    return contender("bridge", plugins / "bridge", node, work, config)


def _host_local(work: Path, name: str, subnet: str) -> dict[str, Any]:
    routes = [{"dst": "0.0.0.0/0"}]
    return {"type": "host-local", "subnet": subnet, "dataDir": str(work / f"{name}-ipam"), "routes": routes}
