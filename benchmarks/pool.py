"""Does an address cost the same in a large pool as in a small one?

    python -m benchmarks.pool

For each strategy and pool: filling it, then releasing one and giving one while nine tenths are held (whose at random,
so that all of the ledger's memory is touched). The pools take turns, so that a noisy machine disturbs all alike; the
best turn counts, in processor time. Ratios first, because they are what another machine does not change; what is left
above 1 is the processor's cache, as `dict alone` shows: the same number of names, taken out of and put into one dict.
"""

import gc
import random
import time
import tracemalloc
from collections.abc import Callable
from ipaddress import ip_network

from reconciler.ipam.ledger import Allocation, Ledger
from reconciler.ipam.pool import PoolSpec, Strategy

SMALL, LARGE, HUGE = "10.0.0.0/24", "10.0.0.0/16", "fd00::/64"
TURNS = 3
CHURN = 20_000
HELD = 65_533


def main() -> None:
    print(f"microseconds per operation, best of {TURNS}; ratio of {LARGE} to {SMALL}")
    print(f"{'':<12}{'operation':<18}{'ratio':>6}{'/24':>9}{'/16':>9}{'/64':>9}")
    report("dict alone", of_dict)
    for strategy in Strategy:
        report(strategy, lambda subnet, strategy=strategy: of_ledger(subnet, strategy))
    sizes = ", ".join(f"{kibibytes(subnet):.0f} in {subnet}" for subnet in (SMALL, "10.0.0.0/8", HUGE))
    print(f"\nKiB of a ledger with 110 addresses: {sizes}")


def report(name: str, measured: Callable[[str], dict[str, float]]) -> None:
    turns = [[measured(subnet) for subnet in (SMALL, LARGE, HUGE)] for _ in range(TURNS)]
    for operation in turns[0][0]:
        small, large, huge = (min(turn[pool][operation] for turn in turns) for pool in range(3))
        print(f"{name:<12}{operation:<18}{large / small:>6.2f}{small:>9.2f}{large:>9.2f}{huge:>9.2f}")


def of_ledger(subnet: str, strategy: Strategy) -> dict[str, float]:
    spec, clock = PoolSpec(ip_network(subnet), strategy=strategy), [0.0]
    ledger = Ledger(lambda: clock[0], random.Random(1), dict)

    def give(owner: str) -> None:
        clock[0] += 1.0
        assert isinstance(ledger.allocate(owner, (spec,)), Allocation)

    return timed(subnet, give, ledger.release)


def of_dict(subnet: str) -> dict[str, float]:
    held: dict[str, str] = {}
    return timed(subnet, lambda owner: held.__setitem__(owner, owner), lambda owner: held.__delitem__(owner))


def timed(subnet: str, give: Callable[[str], None], release: Callable[[str], None]) -> dict[str, float]:
    count, rng = min(ip_network(subnet).num_addresses - 3, HELD), random.Random(2)
    owners = [f"c{n}@eth0" for n in range(count)]
    filling = per_operation(lambda n: give(owners[n]), count)
    rng.shuffle(owners)
    for owner in owners[count * 9 // 10 :]:
        release(owner)
    del owners[count * 9 // 10 :]

    def churn(n: int) -> None:
        place = rng.randrange(len(owners))
        release(owners[place])
        owners[place] = f"n{n}@eth0"
        give(owners[place])

    return {"give (filling)": filling, "release and give": per_operation(churn, CHURN)}


def per_operation(operation: Callable[[int], None], count: int) -> float:
    gc.collect()
    began = time.process_time()
    for n in range(count):
        operation(n)
    return (time.process_time() - began) / count * 1e6


def kibibytes(subnet: str) -> float:
    spec = PoolSpec(ip_network(subnet))
    tracemalloc.start()
    ledger = Ledger(lambda: 0.0, random.Random(1), dict)
    for n in range(110):
        ledger.allocate(str(n), (spec,))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / 1024


if __name__ == "__main__":
    main()
