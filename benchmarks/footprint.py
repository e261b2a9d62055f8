"""What the daemon costs its node: memory with a node full of pods, and processor time while nothing happens."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks import headcni
from benchmarks.box import make_node, make_pod
from benchmarks.figures import Figure, Report

PODS = 110
IDLE_SECONDS = 20.0


def run(work: Path, plugins: Path, rounds: int) -> Report:
    with headcni.daemon(make_node("footprint"), work / "footprint", work) as ours:
        ours.ready()
        empty = _memory(ours.process.pid)
        for number in range(PODS):
            ours.contender.call("ADD", f"pod{number}", make_pod())
        ours.settled()
        time.sleep(1.0)
        full = _memory(ours.process.pid)
        before = ours.processor_seconds()
        time.sleep(IDLE_SECONDS)
        idle = (ours.processor_seconds() - before) / IDLE_SECONDS
    figures = [
        Figure(f"resident memory with {PODS} pods", full, "MiB", at_most=60),
        Figure("resident memory without pods", empty, "MiB"),
        Figure(f"processor time at rest, over {IDLE_SECONDS:.0f} s with {PODS} pods", idle * 100, "%", at_most=0.5),
    ]
    return Report("What the daemon costs", figures)


def _memory(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
