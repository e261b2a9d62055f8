"""`contents.toml`, and what pyproject.toml says of us, as values."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
CONSTRAINTS = REPOSITORY / "constraints.txt"
OURS = ("cni", "statemachine", "reconciler")
SITE = "usr/lib/python3/dist-packages"  # where Debian's Python looks, whatever directory `usr` is
TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}


@dataclass(frozen=True)
class Contents:
    python: str
    packages: list[str]
    keep: list[str]
    drop: list[str]
    folders: list[str]
    loopback: str
    config: dict[str, Any]


@cache
def contents() -> Contents:
    return Contents(**tomllib.loads((HERE / "contents.toml").read_text()))


@cache
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return found


def requirements() -> list[str]:
    return [*project()["dependencies"], *project()["optional-dependencies"]["kube"]]
