"""The numbers of `observe.Observer` and of the daemon's status, in Prometheus' words.

One registry of our own, read by one collector: nothing is counted here, so this module may be imported late (its
library takes 60 ms) and thrown away. What is counted since the start comes from the observer; what is so now comes
from the status, the same value that `status.json` and `headcni status` show, so that they cannot disagree.

The names are part of the interface; `tests/pure/test_metrics.py` holds the list. No label has a value that a pod or
a request can choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from reconciler.observe import Histogram, Observer
from reconciler.operate.mesh_metrics import mesh
from statemachine.attachment import State

POOL_KINDS = ("size", "free", "held", "cooling", "reserved")

Status = Mapping[str, Any]  # as in status.json


class Metrics:
    def __init__(self, observer: Observer, status: Callable[[], Status]) -> None:
        """`status` is called in the HTTP server's thread: it must hand out a finished value, not make one."""
        self._registry = CollectorRegistry()
        self._registry.register(_Reader(observer, status))
        ProcessCollector(registry=self._registry)

    def render(self) -> str:
        return generate_latest(self._registry).decode()


class _Reader(Collector):
    def __init__(self, observer: Observer, status: Callable[[], Status]) -> None:
        self._observer = observer
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from _counted(self._observer)
        yield from _present(self._status())


def _counted(seen: Observer) -> Iterator[Metric]:
    yield CounterMetricFamily("headcni_ip_allocations", "Addresses given to pods.", seen.allocations)
    yield CounterMetricFamily("headcni_ip_releases", "Addresses taken back into their cool-down.", seen.releases)
    yield _counter("network_errors", "Requests refused, by reason, and faults of the daemon.", "kind", seen.errors)
    yield _counter("retries", "Steps that failed and will be tried again.", "step", seen.retries)
    requests = CounterMetricFamily(
        "headcni_requests", "Requests answered, by CNI error code; 0 is success.", labels=("verb", "code")
    )
    for (verb, code), count in list(seen.requests.items()):
        requests.add_metric((verb, str(code) if code >= 0 else "other"), count)
    yield requests
    yield _histogram(
        "pod_network_setup_duration_seconds", "A successful ADD, from intent to answer.", (), [((), seen.setups)]
    )
    yield _histogram(
        "request_duration_seconds",
        "From the plugin's intent to the daemon's answer.",
        ("verb",),
        [((verb,), histogram) for verb, histogram in list(seen.durations.items())],
    )
    yield _histogram(
        "transition_duration_seconds",
        "One try of a step of an attachment's way.",
        ("step", "outcome"),
        [((step, "ok" if ok else "failed"), histogram) for (step, ok), histogram in list(seen.steps.items())],
    )
    yield _histogram(
        "headscale_request_seconds",
        "A request to Headscale's API.",
        ("outcome",),
        [(("ok" if ok else "failed",), histogram) for ok, histogram in list(seen.headscale_calls.items())],
    )
    yield _counter("mesh_repairs", "What was tried to mend the mesh.", "kind", seen.mesh_repairs)


def _present(status: Status) -> Iterator[Metric]:
    counts = status["counts"]
    attachments = _gauge("attachments", "Attachments by state.", ("state",))
    for state in State:
        attachments.add_metric((state.value,), counts.get(state.value, 0))
    yield attachments
    pools = _gauge("pool_addresses", "Addresses of each pool, by what became of them.", ("pool", "kind"))
    for pool in status["pools"]:
        for kind in POOL_KINDS:
            pools.add_metric((str(pool["subnet"]), kind), pool[kind])
    yield pools
    yield _gauge("quarantined_files", "Files set aside because they could not be read.", value=status["quarantined"])
    yield _gauge("ready", "1 if this node can serve an ADD now.", value=status["ready"])
    enforced = status["network_policy"] == "enforced"
    yield _gauge("network_policy_enforced", "1 if NetworkPolicy is enforced.", value=enforced)
    yield from mesh(status.get("mesh", {}))
    yield InfoMetricFamily("headcni_build", "The version that runs.", {"version": status["version"]})


def _counter(name: str, help: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"headcni_{name}", help, labels=(label,))
    for value, count in list(counts.items()):
        family.add_metric((value,), count)
    return family


def _gauge(name: str, help: str, labels: tuple[str, ...] = (), value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"headcni_{name}", help, value, labels or None)


def _histogram(
    name: str, help: str, labels: tuple[str, ...], series: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    family = HistogramMetricFamily(f"headcni_{name}", help, labels=labels)
    for values, histogram in series:
        bounds = (*map(str, histogram.bounds), "+Inf")
        cumulated = accumulate(list(histogram.counts))
        family.add_metric(values, list(zip(bounds, cumulated, strict=True)), histogram.sum)
    return family
