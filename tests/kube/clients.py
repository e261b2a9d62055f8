"""Clients for tests: of a kubeconfig, or of a stand-in by its URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config, load
from reconciler.kube.assemble import dial
from reconciler.kube.candidates import Candidate, Origin
from reconciler.kube.client import Client
from reconciler.kube.names import Names
from reconciler.threads import Threads


def config(**values: Any) -> Config:
    made = load({key.replace("_", "."): value for key, value in values.items()}, {}, None)
    assert isinstance(made, Config), made
    return made


def document(url: str, user: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    """A kubeconfig."""
    return {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "lab", "user": "someone"}}],
        "clusters": [{"name": "lab", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "someone", "user": user or {}}],
    }


def write(file: Path, body: dict[str, Any]) -> Path:
    file.write_text(json.dumps(body))
    return file


async def attempt(candidate: Candidate | Path, told: Any = lambda refusal: None) -> Client | Refusal:
    if isinstance(candidate, Path):
        candidate = Candidate(Origin.KUBECONFIG, candidate)
    return await dial(candidate, config(), Threads(), Names(), told=told)


async def connected(candidate: Candidate | Path, told: Any = lambda refusal: None) -> Client:
    made = await attempt(candidate, told)
    assert isinstance(made, Client), made
    return made
