"""How long the mesh takes to heal, in multiples of the time that Headscale itself takes for one approval.

    python -m benchmarks.heal [--version 0.29] [--rounds 5]

Two nodes with real tailscaleds, a real Headscale, real daemons with an API key. The unit is one approval by hand, from
the call to the other node's having the route; what the daemon adds to it is what is looked at:
- *start*: from the start of a daemon on a joined node, whose prefixes nobody announced or approved, to "in force";
- *un-approval*: from the call that withdraws an approval to the other node's having the route again.

Needs root and the real peers (`make peers`); apart from the other benchmarks, which need neither.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fixtures.mesh.site import Cluster

FOREIGN = "192.168.250.0/24"
SETTLE = 2.0  # seconds between rounds: Headscale's batch of the last one shall not be in the next
POLL = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heal", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", default="0.29", help="of Headscale: 0.29, 0.26, 0.25 or 0.22")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="heal") as work:
        measure(Path(work), options.version, options.rounds)


def measure(work: Path, version: str, rounds: int) -> None:
    with Cluster(work, nodes=2, prefixes=(), by_key=("node1", "node2"), version=version) as cluster:
        cluster.wait_whole(90)
        one, two = cluster.sites
        prefix, control = one.at.pod_cidr, cluster.mesh.headscale

        def by_hand() -> float:
            one.tailscaled.announce(FOREIGN, *one.at.pod_cidrs)
            time.sleep(SETTLE)
            began = time.monotonic()
            control.approve("node1", FOREIGN)
            took = until(lambda: two.tailscaled.accepts(FOREIGN), began)
            control.disapprove("node1", FOREIGN)
            until(lambda: not two.tailscaled.accepts(FOREIGN), began)
            time.sleep(SETTLE)
            return took

        def unapproval() -> float:
            began = time.monotonic()
            control.disapprove("node1", prefix)
            until(lambda: not two.tailscaled.accepts(prefix), began)
            took = until(lambda: two.tailscaled.accepts(prefix) and one.in_force, began)
            time.sleep(SETTLE)
            return took

        def start() -> float:
            one.daemon.stop()
            one.tailscaled.announce()
            control.disapprove("node1", *one.at.pod_cidrs)
            (one.state_dir / "mesh.json").unlink()
            (one.state_dir / "mesh-view.json").unlink()
            until(lambda: not two.tailscaled.accepts(prefix), time.monotonic())
            time.sleep(SETTLE)
            began = time.monotonic()
            one.daemon.start()
            took = until(lambda: one.in_force and two.tailscaled.accepts(prefix), began)
            time.sleep(SETTLE)
            return took

        unit = statistics.median([by_hand() for _ in range(rounds)])
        print(f"Headscale {version}: one approval by hand, to the other node's route: {unit:.2f} s = 1")
        for what, run in (("un-approval to healed", unapproval), ("start to in force", start)):
            times = [run() for _ in range(rounds)]
            print(
                f"{what}: {statistics.median(times) / unit:.2f} (worst {max(times) / unit:.2f}; {times[0]:.2f} s first)"
            )


def until(holds: Callable[[], object], began: float, patience: float = 90.0) -> float:
    while not holds():
        if time.monotonic() - began > patience:
            raise SystemExit("it did not happen within 90 s")
        time.sleep(POLL)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
