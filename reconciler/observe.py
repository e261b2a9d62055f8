"""What the daemon counts while it works: plain numbers, so that counting costs less than a microsecond.

The engine touches nothing but this file. Turning the numbers into Prometheus' text is the work of
`operate/metrics.py`, which imports a library that takes 60 ms to load, and does so when somebody asks for the first
time. Because the numbers live here, nothing that happened before is lost.

Invariants: numbers only grow; every key comes from a small fixed set (verbs, error codes, steps), so that no request
can make the metrics grow without bound; no key holds anything of a pod. The event loop is the only writer. A
reader in another thread may see a histogram one observation behind its neighbour, and does not care.

Rejected: the library's own counters in the hot path. Each update takes a lock and a look-up by label tuple, about ten
times the cost, and the library would have to be there from the first intent on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from functools import partial

from cni.spec import Code, Verb

# Upper bounds in seconds. A step begins at half a millisecond; a request may last as long as a runtime waits.
STEP_BOUNDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
HEADSCALE_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # a key is checked in 60 ms
REQUEST_BOUNDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0)

FAULT = "fault"
FOREIGN = "delegate"  # a code that is not ours: an IPAM plugin's own

_CODES = {int(code): code.name.lower() for code in Code}


class Histogram:
    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: longer than every bound
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Observer:
    def __init__(self) -> None:
        self.allocations = 0
        self.releases = 0
        self.errors: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.setups = Histogram(REQUEST_BOUNDS)
        self.durations: defaultdict[str, Histogram] = defaultdict(partial(Histogram, REQUEST_BOUNDS))
        self.steps: defaultdict[tuple[str, bool], Histogram] = defaultdict(partial(Histogram, STEP_BOUNDS))
        self.headscale_calls: defaultdict[bool, Histogram] = defaultdict(partial(Histogram, HEADSCALE_BOUNDS))
        self.mesh_repairs: Counter[str] = Counter()

    def answered(self, verb: str, code: int, seconds: float) -> None:
        """A request has its answer, `seconds` after its plugin made the intent; code 0 is success."""
        self.requests[verb, code if code in _CODES or not code else -1] += 1
        self.durations[verb].add(seconds)
        if code:
            self.errors[_CODES.get(code, FOREIGN)] += 1
        elif verb == Verb.ADD:
            self.setups.add(seconds)

    def step(self, step: str, ok: bool, seconds: float) -> None:
        """A step of an attachment's way ended, well or not. What failed is not an error until it is answered."""
        self.steps[step, ok].add(seconds)

    def allocated(self, addresses: int) -> None:
        self.allocations += addresses

    def released(self, addresses: int) -> None:
        self.releases += addresses

    def retry(self, step: str) -> None:
        self.retries[step] += 1

    def headscale(self, seconds: float, ok: bool) -> None:
        """A request to Headscale's API was answered, or was not."""
        self.headscale_calls[ok].add(seconds)

    def mesh_repair(self, kind: str) -> None:
        """The mesh was mended, or tried to be; `kind` is one of a few acts."""
        self.mesh_repairs[kind] += 1

    def error(self, kind: str) -> None:
        """What went wrong and is no answer to a request: `FAULT` for a fault of the daemon itself."""
        self.errors[kind] += 1
