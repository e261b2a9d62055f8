"""One pod after another: ADD and DEL of each contender in turn, each in a namespace of its own.

The start alone is measured in the same turn (VERSION: the process starts, reads its input and answers), so that
what a plugin does can be told from what its language costs. The turn's order rotates, so that nobody always follows
the same neighbour, and after our DEL the clock stops until the daemon has torn down: its work is not charged to the
next one, but shown by itself.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections import defaultdict
from pathlib import Path

from benchmarks import headcni
from benchmarks.box import make_node, make_pod
from benchmarks.contender import Contender, bridge, ptp
from benchmarks.figures import Figure, Report, Series

WARM_UP = 3


def run(work: Path, plugins: Path, rounds: int) -> Report:
    peers = [ptp(plugins, make_node("seq-ptp"), work), bridge(plugins, make_node("seq-bridge"), work)]
    with headcni.daemon(make_node("seq-ours"), work / "sequential", work) as ours:
        ours.ready()
        taken: dict[str, list[float]] = defaultdict(list)
        contenders = [ours.contender, *peers]
        for turn in range(-WARM_UP, rounds):
            for each in contenders[turn % 3 :] + contenders[: turn % 3]:
                for what, seconds in _one_pod(each, ours, f"pod{turn + WARM_UP}").items():
                    if turn >= 0:
                        taken[f"{what} {each.name}"].append(seconds)
    return _report(taken)


def _one_pod(each: Contender, ours: headcni.Daemon, container: str) -> dict[str, float]:
    pod = make_pod()
    each.node.enter()
    start = each.call("VERSION")
    before = _processor_seconds(ours)
    add = each.call("ADD", container, pod)
    if each is ours.contender:
        ours.settled()
    cost = _processor_seconds(ours) - before
    began = time.perf_counter()
    delete = each.call("DEL", container, pod)
    if each is not ours.contender:
        return {"start": start, "ADD": add, "DEL": delete, "ADD (processor)": cost}
    ours.quiet()
    gone = time.perf_counter() - began
    return {"start": start, "ADD": add, "DEL": delete, "ADD (processor)": cost, "DEL and torn down": gone}


def _processor_seconds(ours: headcni.Daemon) -> float:
    """Of all plugins that ended, with what they executed, and of the daemon; other work on the machine is not in it."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime + ours.processor_seconds()


def _report(taken: dict[str, list[float]]) -> Report:
    series = {name: Series(name, seconds) for name, seconds in sorted(taken.items())}

    def p50(name: str) -> float:
        return series[name].p50

    def beyond_start(name: str) -> float:
        return p50(f"ADD {name}") - p50(f"start {name}")

    def mean(name: str) -> float:
        return statistics.fmean(taken[f"ADD (processor) {name}"])

    figures = [
        Figure("ADD, ours to ptp + host-local", p50("ADD headcni") / p50("ADD ptp"), "x", at_most=0.8),
        Figure("ADD, ours to bridge + host-local", p50("ADD headcni") / p50("ADD bridge"), "x"),
        Figure("ADD less its own start, ours to ptp's whole ADD", beyond_start("headcni") / p50("ADD ptp"), "x", 0.5),
        Figure(
            "ADD less its own start, ours to ptp's less its start", beyond_start("headcni") / beyond_start("ptp"), "x"
        ),
        Figure("the floor: our start alone to ptp's ADD", p50("start headcni") / p50("ADD ptp"), "x"),
        Figure("processor time of an ADD, ours to ptp + host-local", mean("headcni") / mean("ptp"), "x"),
        Figure("DEL, ours to ptp + host-local", p50("DEL headcni") / p50("DEL ptp"), "x", at_most=0.3),
        Figure("the floor: our start alone to ptp's DEL", p50("start headcni") / p50("DEL ptp"), "x"),
        Figure("DEL, ours to bridge + host-local", p50("DEL headcni") / p50("DEL bridge"), "x"),
        Figure(
            "DEL until all is torn down, ours to ptp + host-local",
            p50("DEL and torn down headcni") / p50("DEL ptp"),
            "x",
        ),
    ]
    return Report(f"One pod after another ({len(taken['ADD ptp'])} rounds, interleaved)", figures, [*series.values()])
