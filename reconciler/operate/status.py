"""`status.json`: what the daemon says of itself, for the plugin's STATUS and for `headcni status`.

The daemon writes it by rename whenever it changes, and every ten seconds. The plugin looks only for the keys that begin
with `cni_`, on the first level and without parsing; their names are part of the format. Who reads this file asks the
lock whether its writer still lives, and `cni_beat` whether it still moves: a hung daemon keeps its lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import orjson

from statemachine.envelope import Damaged, parsed

FORMAT = "headcni/status/1"


@dataclass(frozen=True, slots=True)
class NotReady:
    what: str
    cure: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    ready: bool
    cni_code: int  # 0, or 50 or 51 of the specification
    cni_msg: str
    cni_details: str
    version: str
    pid: int
    boot_id: str
    started: float
    written: float
    cni_beat: int = 0  # CLOCK_MONOTONIC ns, when this was written: no jump of the wall clock makes it old
    not_ready: tuple[NotReady, ...] = ()
    warnings: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)  # attachments by state
    pools: tuple[Mapping[str, Any], ...] = ()
    quarantined: int = 0
    network_policy: str = "not enforced"
    mesh: Mapping[str, Any] = field(default_factory=lambda: {"mode": "none", "static_routes": []})
    pod_cidrs: tuple[str, ...] = ()
    pod_cidr_source: Mapping[str, Any] = field(default_factory=dict)  # as `reconciler.node.keeper` has it
    kube: Mapping[str, Any] = field(default_factory=dict)  # as `reconciler.kube.side` has it


def encode_status(status: Status) -> bytes:
    body = {"format": FORMAT, **asdict(status)}
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def decode_status(raw: bytes) -> Status:
    """Keys it does not know are passed over: a newer daemon may say more in the same version."""
    body = parsed(raw, FORMAT)
    known = {each.name: body[each.name] for each in fields(Status) if each.name in body}
    try:
        for name in ("warnings", "pools", "pod_cidrs"):
            known[name] = tuple(known.get(name, ()))
        known["not_ready"] = tuple([NotReady(**each) for each in known.get("not_ready", ())])
        return Status(**known)
    except TypeError as error:
        raise Damaged(f"field missing or malformed: {error}") from None
