"""Clusters for tests: where there can be none, the test says why, and fails where it must run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fixtures.cluster import Cluster, ClusterUnavailable
from fixtures.cluster.folder import unavailable


@contextlib.contextmanager
def made(folder: Path, **options: Any) -> Iterator[Cluster]:
    cluster = Cluster(folder, **options)
    try:
        cluster.up()
    except ClusterUnavailable as why:
        _end(str(why))
    with contextlib.closing(cluster):
        yield cluster


def require(folder: Path) -> None:
    """For tests that make one in another way."""
    why_not = unavailable(folder)
    if why_not:
        _end(why_not)


def _end(why: str) -> NoReturn:
    required = os.environ.get("CI") == "true" or os.environ.get("HEADCNI_REQUIRE_PEERS") == "1"
    (pytest.fail if required else pytest.skip)(f"there can be no cluster here: {why}")
