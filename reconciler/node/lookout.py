"""What overlaps, and who hinders pods on this node: looked at again and again while the daemon runs.

Each is a warning, said once and withdrawn when it is over. Overlaps that break traffic are handed back as well, for
they make the node not ready. Overlaps are looked at each time, in a few milliseconds; firewalls and other plugins cost
processes, so they have their turn every few minutes, and none while the daemon starts. They also read files of the
node, which may hang, so that is done in a thread that is given up: nothing of it may keep the daemon from ending.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.node import dump, overlap
from reconciler.node.clash import Ranges
from reconciler.node.nearby import mesh_links
from reconciler.node.wish import Problem
from reconciler.operate.log import Once
from reconciler.threads import Threads

FIRST_SECONDS = 10.0
NEIGHBOURS_SECONDS = 300.0
PATIENCE_SECONDS = 30.0
HANGS = Refusal(
    Trouble.SOURCE_UNREADABLE,
    f"whether other plugins and firewalls hinder pods is not known: looking took more than {PATIENCE_SECONDS:.0f} s",
    "a file system hangs, or nft: see `mount`, `dmesg` and `nft list ruleset`",
)


class Lookout:
    def __init__(self, warnings: Once, changed: Callable[[], None]) -> None:
        self._warnings = warnings
        self._changed = changed
        self._threads = Threads()
        self._due = time.monotonic() + FIRST_SECONDS
        self._said: dict[str, Mapping[str, Refusal]] = {}

    async def overlaps(self, ranges: Ranges) -> tuple[Problem, ...]:
        """Those that break traffic."""
        found = await asyncio.to_thread(overlap.look, ranges)
        self._say("overlap", [each.refusal for each in found])
        return tuple([Problem(each.refusal.msg, each.refusal.details) for each in found if each.fatal])

    async def neighbours(self, ranges: Ranges, root: Path, conf_dir: str) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + NEIGHBOURS_SECONDS
            try:
                found = await self._threads.run(lambda: hindrances(ranges, root, conf_dir), PATIENCE_SECONDS)
            except TimeoutError:
                found = [HANGS]
            self._say("neighbour", found)

    def _say(self, kind: str, found: list[Refusal]) -> None:
        before, now = self._said.get(kind, {}), {f"{kind} {refusal.msg}": refusal for refusal in found}
        for key in before.keys() - now.keys():
            self._warnings.clear(key)
        for key, refusal in now.items():
            self._warnings.warn(key, f"{refusal.msg}; {refusal.details}")
        self._said[kind] = now
        if now != before:
            self._changed()


def hindrances(ranges: Ranges, root: Path, conf_dir: str) -> list[Refusal]:
    from reconciler.node import neighbours  # late: not while the daemon starts

    seen = neighbours.look(root, conf_dir)
    device = mesh_device() if ranges.mesh else ""
    return [each.refusal for each in neighbours.hindrances(seen, ranges.pods, ranges.cluster, device)]


def mesh_device() -> str:
    return next((dump.link_name(link) for link in mesh_links(dump.addresses())), "")
