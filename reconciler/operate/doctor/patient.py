"""What all themes go by: the daemon's files and its words, and the configuration.

The ranges are those of the daemon, also of the last one, for it knew its flags; where none ever ran, those that one
would choose that starts now.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cni.plugin import STILL_SECONDS
from cni.spec import Refusal
from reconciler.config import Config, Problem, load
from reconciler.node.clash import Ranges, ranges
from reconciler.node.keeper import as_data
from reconciler.node.podcidr import judge
from reconciler.node.remembered import Remembered, read
from reconciler.node.sources import look
from reconciler.operate.configure import loader
from reconciler.operate.statedir import Found, StateDir, open_state
from reconciler.operate.status import Status
from reconciler.settings import BY_KEY, Network, real_path
from statemachine.attachment import Damaged, UnknownVersion

STATE_DIR = BY_KEY["stateDir"]


@dataclass(frozen=True, slots=True)
class Patient:
    root: Path  # of the daemon's files
    state: StateDir | Refusal
    live: tuple[Found, ...]
    lives: bool  # a daemon runs
    status: Status | None  # what it, or the last one, said
    still: int  # seconds since it said so, where that is too long
    config: Config
    problems: tuple[Problem, ...]  # of the configuration: then `config` is the default
    cidrs: Mapping[str, Any]  # as `headcni podcidr` has it
    now: float
    online: bool

    @property
    def mesh(self) -> bool:
        said = self.status.mesh.get("mode") if self.status else None
        return (said or self.config.mesh_mode) == "tailscale"

    def ranges(self, others: Mapping[Network, str] | None = None) -> Ranges:
        own, cluster, services = (
            [ip_network(each) for each in self.cidrs.get(key, ())]
            for key in ("cidrs", "cluster_cidrs", "service_cidrs")
        )
        return ranges(own, cluster, services, self.mesh, [found.record for found in self.live], others)


def meet(args: Namespace, now: float) -> Patient:
    loaded = loader(args)()
    config = loaded if isinstance(loaded, Config) else _default(args)
    root = config.state_dir
    state = open_state(root)
    opened = state if isinstance(state, StateDir) else None
    lives, status = (opened.daemon_lives(), opened.status()) if opened else (False, None)
    return Patient(
        root=root,
        state=state,
        live=tuple(opened.live()) if opened else (),
        lives=lives,
        status=status,
        still=_still(status) if lives else 0,
        config=config,
        problems=tuple(loaded) if isinstance(loaded, list) else (),
        cidrs=_cidrs(config, root, status),
        now=now,
        online=args.online,
    )


def _default(args: Namespace) -> Config:
    """So that the rest can be looked at, though the configuration is wrong."""
    where = args.state_dir or os.environ.get(STATE_DIR.env) or STATE_DIR.default
    config = load({}, {}, None)
    assert isinstance(config, Config)
    return replace(config, state_dir=real_path(where))


def _still(status: Status | None) -> int:
    """As the plugin's STATUS has it: a hung daemon keeps its lock, and its last words."""
    seconds = (time.monotonic_ns() - status.cni_beat) // 1_000_000_000 if status else 0
    return 0 if 0 <= seconds <= STILL_SECONDS else seconds


def _cidrs(config: Config, root: Path, said: Status | None) -> Mapping[str, Any]:
    if said and said.pod_cidr_source:
        return said.pod_cidr_source
    return as_data(judge(look(config, os.environ, _remembered(root))))


def _remembered(root: Path) -> Remembered | None:
    """What is wrong with the file is told by `records`."""
    try:
        return read(str(root))
    except (Damaged, UnknownVersion, OSError):
        return None
