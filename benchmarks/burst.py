"""A node's 110 pods in a burst, beside ptp: all at once, and thirty at a time as a kubelet does it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from pathlib import Path

from benchmarks import headcni
from benchmarks.box import make_node, make_pod
from benchmarks.contender import Call, Contender, ptp
from benchmarks.figures import Figure, Report, Series

PODS = 110
AT_A_TIME = 30


def run(work: Path, plugins: Path, rounds: int) -> Report:
    peer = ptp(plugins, make_node("burst-ptp"), work)
    pods = [make_pod() for _ in range(PODS)]
    rates: dict[str, list[float]] = defaultdict(list)
    failures: list[str] = []
    with headcni.daemon(make_node("burst-ours"), work / "burst", work) as ours:
        ours.ready()
        for turn in range(rounds):
            for each in (ours.contender, peer) if turn % 2 else (peer, ours.contender):
                for width in (AT_A_TIME, PODS):
                    each.node.enter()
                    seconds = _all("ADD", each, pods, width, failures)
                    rates[f"{each.name} {width}"].append(PODS / seconds)
                    if each is ours.contender:
                        ours.settled()
                    rates[f"DEL {each.name} {width}"].append(PODS / _all("DEL", each, pods, width, failures))
                    if each is ours.contender:
                        ours.quiet()
    return _report(rates, failures)


def _all(verb: str, each: Contender, pods: list[str], width: int, failures: list[str]) -> float:
    began = time.perf_counter()
    running: list[Call] = []
    for number, pod in enumerate(pods):
        if len(running) >= width:
            _finish(running.pop(0), each.name, failures)
        running.append(each.start(verb, f"burst{number}", pod))
    for call in running:
        _finish(call, each.name, failures)
    return time.perf_counter() - began


def _finish(call: Call, name: str, failures: list[str]) -> None:
    answer = call.read()
    if call.reap():
        failures.append(f"{name}: {answer.decode(errors='replace').strip()}")


def _report(rates: dict[str, list[float]], failures: list[str]) -> Report:
    def ratio(verb: str, width: int) -> float:
        return statistics.median(rates[f"{verb}headcni {width}"]) / statistics.median(rates[f"{verb}ptp {width}"])

    mine = [failure for failure in failures if failure.startswith("headcni")]
    figures = [
        Figure(f"rate of {PODS} ADDs at once, ours to ptp + host-local", ratio("", PODS), "x", at_least=1.2),
        Figure(f"rate of {PODS} ADDs, {AT_A_TIME} at a time", ratio("", AT_A_TIME), "x", at_least=1.2),
        Figure(f"rate of {PODS} DELs at once", ratio("DEL ", PODS), "x"),
        Figure("failures of ours", len(mine), "", at_most=0),
        Figure("failures of ptp", len(failures) - len(mine), ""),
    ]
    for failure in sorted(set(failures))[:5]:
        print(failure)
    series = [Series(f"per pod, {name}", [1 / rate for rate in found]) for name, found in sorted(rates.items())]
    return Report(f"{PODS} pods in a burst", figures, series)
