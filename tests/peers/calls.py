"""The two ways a test calls a plugin: by cnitool, which is libcni, and bare, to see the error itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

from box import Box

from fixtures.peers import find

PLUGINS = "/opt/cni/bin"


@dataclass(frozen=True)
class CniTool:
    box: Box
    network: str = "tailscale-cni"

    def add(self, pod: str, **capabilities: Any) -> dict[str, Any]:
        done = self.call("add", pod, **capabilities)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def call(self, verb: str, pod: str = "", **capabilities: Any) -> CompletedProcess[str]:
        environment = {"CNI_PATH": PLUGINS, "NETCONFPATH": "/etc/cni/net.d"}
        if capabilities:
            environment["CAP_ARGS"] = json.dumps(capabilities)
        return self.box.run(find("cnitool"), verb, self.network, netns(pod), check=False, environment=environment)


def call(box: Box, plugin: str, verb: str, config: dict[str, Any], pod: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what it printed."""
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": f"bare-{pod}",
        "CNI_NETNS": netns(pod),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": PLUGINS,
    }
    done = box.run(f"{PLUGINS}/{plugin}", stdin=json.dumps(config), check=False, environment=environment)
    return done.returncode, json.loads(done.stdout or "{}")


def netns(pod: str) -> str:
    return f"/run/netns/{pod}"


def new_pods(box: Box, *pods: str) -> None:
    for pod in pods:
        box.run("ip", "netns", "add", pod)
        in_pod(box, pod, "ip", "link", "set", "lo", "up")


def in_pod(box: Box, pod: str, *command: object) -> str:
    return box.run("ip", "netns", "exec", pod, *command).stdout


def reaches(box: Box, pod: str, address: str) -> bool:
    ping = (find("busybox"), "ping", "-c", "1", "-W", "2", address)
    return box.run("ip", "netns", "exec", pod, *ping, check=False).returncode == 0


def address_of(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"]).partition("/")[0]
