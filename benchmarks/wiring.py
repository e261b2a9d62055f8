"""What wiring one pod costs, and which step costs it: `python -m benchmarks.wiring [PODS]`.

Works in a lab node, with a fresh namespace for each pod, and leaves nothing behind. "kernel" is the time inside the
system call that carries the requests; what remains is ours: encoding, decoding, the interpreter.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

from fixtures.lab import Lab, Netns, Node
from reconciler.wiring import netlink
from reconciler.wiring.kernel import KernelWiring
from reconciler.wiring.plan import LinkPlan, PodAddress, Route, host_name, instance_group, macs

GROUP = instance_group("benchmark")
SENDS = ("kernel: create the pair, look at it", "kernel: the pod's end", "kernel: the node's end")
LOOKS = "kernel: until the pod's end can send"
UNWIRED_ALONE = 20


class TimedSocket(socket.socket):
    """Remembers how long each send took: that is where the kernel works."""

    sends: list[float] = []  # noqa: RUF012  # one list for all of them

    def send(self, data: Any, flags: int = 0, /) -> int:
        began = time.perf_counter()
        sent = super().send(data, flags)
        self.sends.append(time.perf_counter() - began)
        return sent


def main() -> None:
    pods = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    netlink.socket.socket = TimedSocket
    for dual in (False, True):
        with Lab(1) as lab, lab.nodes[0].entered():
            print(f"{pods} pods, {'IPv4 and IPv6' if dual else 'IPv4'}")
            measure(lab.nodes[0], [plan(number, dual) for number in range(pods)])


def measure(node: Node, plans: list[LinkPlan]) -> None:
    wiring = KernelWiring(GROUP)
    names = [each.host_name for each in plans]
    places: list[Netns] = [node.new_pod_netns() for _ in plans]
    time.sleep(1)  # namespaces finish their birth in the background
    namespaces = [wiring.identity(each.path) for each in places]
    pairs = list(zip(plans, namespaces, strict=True))
    wire(wiring, pairs)
    report("inspect", [timed(wiring.inspect, *pair) for pair in pairs])
    report("list our links", [timed(wiring.links) for _ in range(10)])
    report("unwire one", [timed(wiring.unwire, [name]) for name in names[:UNWIRED_ALONE]])
    report(f"unwire {len(names) - UNWIRED_ALONE} in one", [timed(wiring.unwire, names[UNWIRED_ALONE:])])


def wire(wiring: KernelWiring, pairs: list[tuple[Any, Any]]) -> None:
    totals, shares = [], defaultdict(list)
    for pair in pairs:
        TimedSocket.sends.clear()
        totals.append(timed(wiring.wire, *pair))
        for step, seconds in zip(SENDS, TimedSocket.sends, strict=False):
            shares[step].append(seconds)
        shares[LOOKS].append(sum(TimedSocket.sends[len(SENDS) :]))
        shares["ours, and entering the namespace"].append(totals[-1] - sum(TimedSocket.sends))
    report("wire", totals)
    for step, seconds in shares.items():
        report("  " + step, seconds)


def timed(call: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def report(what: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(f"  {what:<40} p50 {statistics.median(ordered) * 1e3:7.3f} ms   p99 {p99 * 1e3:7.3f} ms")


def plan(number: int, dual: bool) -> LinkPlan:
    key = f"benchmark-{number}@eth0"
    gateways = [ip_address("10.244.0.1"), *([ip_address("fd00:244::1")] if dual else [])]
    return LinkPlan(
        host_name(key),
        "eth0",
        *macs(key),
        mtu=1280,
        group=GROUP,
        addresses=tuple(PodAddress(gateway + 1 + number, gateway) for gateway in gateways),
        routes=tuple(Route(ip_network(("0.0.0.0/0", "::/0")[gateway.version == 6]), gateway) for gateway in gateways),
    )


if __name__ == "__main__":
    main()
