"""Does an address cost the same in a large pool as in a small one?

    python -m benchmarks.pool

For each strategy and pool size, measured turn by turn so that a noisy machine disturbs all alike, best of several:
filling the pool, then releasing one and giving one while nine tenths are held, then a restart of the ledger from
its records until the first address. Ratios first, because they are what a machine does not change.
"""

import gc
import random
import time
import tracemalloc
from collections.abc import Callable
from ipaddress import ip_network

from reconciler.ipam.ledger import Allocation, Ledger
from reconciler.ipam.pool import PoolSpec, Strategy

SMALL, LARGE = "10.0.0.0/24", "10.0.0.0/16"
ROUNDS = 3
CHURN = 20_000  # releases and allocations while nine tenths are held


def main() -> None:
    print("microseconds for one operation (best of %d), and the ratio of %s to %s" % (ROUNDS, LARGE, SMALL))
    print(f"{'strategy':<12}{'operation':<18}{'ratio':>6}{'/24':>9}{'/16':>9}{'/64':>9}")
    for strategy in Strategy:
        runs = [[measured(subnet, strategy) for subnet in (SMALL, LARGE, "fd00::/64")] for _ in range(ROUNDS)]
        for operation in runs[0][0]:
            small, large, huge = (min(run[pool][operation] for run in runs) for pool in range(3))
            print(f"{strategy:<12}{operation:<18}{large / small:>6.2f}{small:>9.2f}{large:>9.2f}{huge:>9.2f}")
    print("\nKiB held by a ledger with 110 addresses: " + ", ".join(memory(net) for net in (SMALL, "10.0.0.0/8", "fd00::/64")))


def measured(subnet: str, strategy: Strategy) -> dict[str, float]:
    spec = PoolSpec(ip_network(subnet), strategy=strategy)
    clock = [0.0]
    ledger = Ledger(lambda: clock[0], random.Random(1), dict)
    count = min(spec.subnet.num_addresses - 3, 65_533)
    fill = per_operation(lambda n: give(ledger, str(n), spec), count)
    rng = random.Random(2)
    names = [str(n) for n in range(count)]
    for name in rng.sample(names, count // 10):
        ledger.release(name)
        names.remove(name) if count < 1000 else names.__setitem__(int(name), "")
    names = [name for name in names if name]

    def churn(n: int) -> None:
        clock[0] += 1.0
        place = rng.randrange(len(names))
        ledger.release(names[place])
        names[place] = f"new{n}"
        give(ledger, names[place], spec)

    return {"give (filling)": fill, "release and give": per_operation(churn, CHURN)}


def give(ledger: Ledger, owner: str, spec: PoolSpec) -> None:
    assert isinstance(ledger.allocate(owner, (spec,)), Allocation)


def per_operation(operation: Callable[[int], None], count: int) -> float:
    gc.collect()
    began = time.perf_counter()
    for n in range(count):
        operation(n)
    return (time.perf_counter() - began) / count * 1e6


def memory(subnet: str) -> str:
    spec = PoolSpec(ip_network(subnet))
    tracemalloc.start()
    ledger = Ledger(lambda: 0.0, random.Random(1), dict)
    for n in range(110):
        give(ledger, str(n), spec)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return f"{size / 1024:.0f} in {subnet}"


if __name__ == "__main__":
    main()
