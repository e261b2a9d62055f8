"""HeadCNI in a box: the plugin as `make install` leaves it, the daemon as a process, and what they must not leave."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from box import Box, Program, eventually

from fixtures.peers import find

REPOSITORY = Path(__file__).resolve().parents[2]
SUBNET = "10.244.1.0/24"
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}
BANDWIDTH = {"type": "bandwidth", "capabilities": {"bandwidth": True}}


def conflist(version: str, *chained: dict[str, Any], **ours: Any) -> dict[str, Any]:
    first = {"type": "headcni", "mtu": 1280, "ipam": {"type": "headcni-ipam", "subnet": SUBNET}} | ours
    return {"cniVersion": version, "name": "tailscale-cni", "plugins": [first, *chained]}


class HeadCni:
    def __init__(self, box: Box, installed: Path) -> None:
        self.box = box
        self.state = box.inside("/var/lib/headcni")
        self._daemon: Program | None = None
        for program in (*installed.iterdir(), *find("plugins").parent.iterdir()):
            shutil.copy(program, box.inside("/opt/cni/bin"))

    def configure(self, conflist: dict[str, Any]) -> None:
        (self.box.inside("/etc/cni/net.d") / "10-headcni.conflist").write_text(json.dumps(conflist))

    # --- the daemon

    def start(self) -> None:
        arguments = ("--pod-cidr", SUBNET, "--mesh", "none", "--kube", "off", "--metrics-port", "0")
        self._daemon = self.box.start(
            "daemon", sys.executable, "-m", "reconciler.operate.cli", "daemon", *arguments,
            environment={"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        eventually(self._is_ready, "the daemon to be ready", told=self.tail)

    def ensure_running(self) -> None:
        if not self._daemon or not self._daemon.alive():
            self.start()

    def kill(self) -> None:
        assert self._daemon
        self._daemon.signal("KILL")
        self._daemon.wait()

    def _is_ready(self) -> bool:
        assert self._daemon
        try:
            status = json.loads((self.state / "status.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return bool(status["ready"]) and status["pid"] == int(self._daemon.pid)

    # --- what it holds

    def records(self) -> list[dict[str, Any]]:
        """Those that are there; one that goes between the listing and its reading is not."""
        found = []
        for path in (self.state / "attachments").glob("*.json"):
            with suppress(FileNotFoundError):
                found.append(json.loads(path.read_bytes()))
        return found

    def intents(self) -> list[str]:
        return [path.name for path in (self.state / "intents").iterdir()]

    def leftovers(self) -> list[str]:
        """Files that stand for an attachment: ours, and libcni's and host-local's beside us."""
        ours = [self.state / name for name in ("attachments", "intents", "results", "tmp", "quarantine")]
        theirs = list(self.box.inside("/var/lib/cni/networks").glob("*"))
        folders = (*ours, self.box.inside("/var/lib/cni/results"), *theirs)
        files = [path for folder in folders if folder.exists() for path in folder.iterdir()]
        return [str(path) for path in files if path.name != "lock" and not path.name.startswith("last_reserved_ip")]

    def await_nothing_left(self) -> None:
        eventually(lambda: not self.leftovers(), "no file to be left", told=lambda: (self.leftovers(), self.tail()))

    def tail(self) -> str:
        """What the daemon said last."""
        log = self.box.log("daemon")
        return "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.exists() else ""


def kernel_state(box: Box) -> str:
    """Links, addresses, routes, rules and nft objects, without what changes by itself."""
    looks = (
        "ip -o address | grep -v 'inet6 fe80' | sed 's/ [^ ]*_lft.*//'",
        "ls /sys/class/net",
        "ip -o rule; ip -6 -o rule",
        "ip -4 -o route show table all | sort; ip -6 -o route show table all | grep -v -e fe80 -e ff00 | sort",
        "nft -s list ruleset",
    )
    return "".join(box.run("sh", "-c", look).stdout for look in looks)
