"""Ten thousand records instead of ten: is an ADD slower, and how long does the first caller wait after a restart?

The records are those of IPAM-only attachments in one living namespace, because ten thousand interfaces would measure
the kernel. Each is read, checked and compared with its namespace like any other.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from benchmarks import headcni
from benchmarks.box import Node, make_node, make_pod
from benchmarks.figures import Figure, Report, Series
from statemachine.attachment import Address, Attachment, Namespace, State, Visit, encode, file_name

FEW, MANY = 10, 10_000
FIRST = int(IPv4Address("10.244.100.0"))
RESTARTS = 5


def run(work: Path, plugins: Path, rounds: int) -> Report:
    nodes = {count: make_node(f"scale{count}") for count in (FEW, MANY)}
    pod = make_pod()
    for count in nodes:
        _fill(work / f"scale{count}", count, pod)
    first = {count: [_restart(nodes[count], count, work) for _ in range(RESTARTS)] for count in nodes}
    adds = _adds(nodes, work, rounds)
    few, many = (Series(f"ADD with {count} records", adds[count]) for count in (FEW, MANY))
    restarts = {count: Series(f"restart with {count} records until the first answer", first[count]) for count in nodes}
    figures = [
        Figure(f"ADD with {MANY} records to one with {FEW}", many.p50 / few.p50, "x", at_most=1.1),
        Figure(f"restart with {MANY} records until the first answer", restarts[MANY].p50, "s", at_most=1.0),
    ]
    return Report("Ten thousand records", figures, [few, many, *restarts.values()])


def _fill(state: Path, count: int, pod: str) -> None:
    (state / "attachments").mkdir(parents=True, mode=0o700)
    found = os.stat(pod)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    now = time.time()
    template = Attachment(
        container="",
        ifname="eth0",
        goal=State.ALLOCATED,
        network="bench",
        cni_version="1.0.0",
        boot_id=boot_id,
        created=now,
        since=now,
        state=State.ALLOCATED,
        answered=True,
        netns=Namespace(pod, found.st_dev, found.st_ino),
        history=(Visit(State.ALLOCATED, now, 0.1, "allocate"),),
        config={"name": "bench", "type": "headcni-ipam", "cniVersion": "1.0.0"},
    )
    for number in range(count):
        address = Address(f"{IPv4Address(FIRST + number)}/32", None, headcni.POD_CIDR)
        record = replace(template, container=f"{number:064x}", addresses=(address,))
        (state / "attachments" / file_name(record.key)).write_bytes(encode(record))


def _restart(node: Node, count: int, work: Path) -> float:
    """From the daemon's start to the answer to a plugin that came at the same time."""
    began = time.perf_counter()
    with headcni.daemon(node, work / f"scale{count}", work) as ours:
        pod = make_pod()
        ours.contender.call("ADD", "first", pod)
        took = time.perf_counter() - began
        ours.contender.call("DEL", "first", pod)
        ours.forgotten("first")
    return took


def _adds(nodes: dict[int, Node], work: Path, rounds: int) -> dict[int, list[float]]:
    taken: dict[int, list[float]] = defaultdict(list)
    with (
        headcni.daemon(nodes[FEW], work / f"scale{FEW}", work) as few,
        headcni.daemon(nodes[MANY], work / f"scale{MANY}", work) as many,
    ):
        for turn in range(rounds):
            for count, ours in ((FEW, few), (MANY, many)) if turn % 2 else ((MANY, many), (FEW, few)):
                pod = make_pod()
                ours.contender.node.enter()
                taken[count].append(ours.contender.call("ADD", f"pod{turn}", pod))
                ours.contender.call("DEL", f"pod{turn}", pod)
                ours.forgotten(f"pod{turn}")
    return taken
