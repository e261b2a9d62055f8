"""The mesh in Prometheus' words, from the small mapping that `status.json` holds (`viewfile.summary`).

Without a mesh the names are there and have no samples. No label is the name of another node or of a pod: a tailnet may
have thousands, and they come and go. A prefix is one of this node's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric


def mesh(said: Mapping[str, Any]) -> Iterator[Metric]:
    """`said` is the status' `mesh`."""
    looked = "in_force" in said
    up = GaugeMetricFamily("headcni_mesh_up", "1 if this node is a working member of the tailnet.")
    prefixes = GaugeMetricFamily(
        "headcni_mesh_prefix_in_force", "1 if the prefix is announced, approved and serving.", labels=("prefix",)
    )
    peers = GaugeMetricFamily("headcni_mesh_peers", "Other nodes of the tailnet.", labels=("state",))
    ways = GaugeMetricFamily(
        "headcni_mesh_ways", "Prefixes of other nodes, by whether a packet there was answered.", labels=("state",)
    )
    troubles = GaugeMetricFamily("headcni_mesh_troubles", "What is wrong now, by its code.", labels=("code",))
    if looked:
        up.add_metric((), said["member"])
        for prefix, in_force in said["in_force"].items():
            prefixes.add_metric((prefix,), in_force)
        peers.add_metric(("online",), said["peers_online"])
        peers.add_metric(("offline",), said["peers"] - said["peers_online"])
        answering, silent = said["ways_reachable"], said["ways_unreachable"]
        for state, count in (
            ("reachable", answering),
            ("unreachable", silent),
            ("unknown", said["ways"] - answering - silent),
        ):
            ways.add_metric((state,), count)
        for code, count in Counter(_codes(said)).items():
            troubles.add_metric((str(code),), count)
    yield from (up, prefixes, peers, ways, troubles)


def _codes(said: Mapping[str, Any]) -> Iterator[int]:
    """One cause that breaks several prefixes counts once for each."""
    for trouble in (*said["missing"].values(), *said["findings"]):
        yield trouble["code"]
