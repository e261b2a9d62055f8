"""What wiring one pod costs, and which step costs it: `python -m benchmarks.wiring [PODS]` as root.

Works in a network namespace of its own, with one fresh namespace per pod, and leaves nothing behind. "kernel" is the time inside
the system call that carries the requests; what remains is ours: encoding, decoding, and the interpreter.
"""

from __future__ import annotations

import ctypes
import os
import socket
import statistics
import sys
import time
from collections import defaultdict
from ipaddress import ip_address, ip_network

from reconciler.wiring import netlink
from reconciler.wiring.kernel import KernelWiring
from reconciler.wiring.plan import LinkPlan, PodAddress, Route, host_name, instance_group, macs
from statemachine.attachment import Namespace

CLONE_NEWNET = 0x40000000
GROUP = instance_group("benchmark")
STEPS = ("kernel: create the pair, find its indexes", "kernel: the pod's end", "kernel: the node's end")


class TimedSocket(socket.socket):
    sends: list[float] = []  # noqa: RUF012  # shared on purpose: the benchmark reads it

    def send(self, data, flags=0):
        began = time.perf_counter()
        try:
            return super().send(data, flags)
        finally:
            TimedSocket.sends.append(time.perf_counter() - began)


def main() -> None:
    pods = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    unshare()
    netlink.socket.socket = TimedSocket
    wiring = KernelWiring(GROUP)
    for families in ("IPv4", "IPv4 and IPv6"):
        namespaces = [new_namespace() for _ in range(pods)]
        time.sleep(1)  # namespaces finish their birth in the background
        plans = [plan(number, dual=families != "IPv4") for number in range(pods)]
        print(f"{pods} pods, {families}")
        measure_wire(wiring, plans, [Namespace(f"/proc/self/fd/{fd}", *identity(fd)) for fd in namespaces])
        measure("inspect", [timed(wiring.inspect, each, identify(fd)) for each, fd in zip(plans, namespaces, strict=True)])
        measure("links", [timed(wiring.links) for _ in range(10)])
        names = [each.host_name for each in plans]
        measure("unwire one", [timed(wiring.unwire, [name]) for name in names[:20]])
        measure(f"unwire {pods - 20} in one", [timed(wiring.unwire, names[20:])])
        for descriptor in namespaces:
            os.close(descriptor)


def measure_wire(wiring: KernelWiring, plans: list[LinkPlan], namespaces: list[Namespace]) -> None:
    totals, shares = [], defaultdict(list)
    for each, namespace in zip(plans, namespaces, strict=True):
        TimedSocket.sends.clear()
        totals.append(timed(wiring.wire, each, namespace))
        for step, seconds in zip(STEPS, TimedSocket.sends, strict=True):
            shares[step].append(seconds)
        shares["ours, and entering the namespace"].append(totals[-1] - sum(TimedSocket.sends))
    measure("wire", totals)
    for step, seconds in shares.items():
        measure("  " + step, seconds)


def timed(call, *arguments) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def measure(what: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"  {what:<44} p50 {statistics.median(ordered) * 1e3:7.3f} ms   p99 {p99 * 1e3:7.3f} ms")
