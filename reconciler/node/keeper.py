"""The pod CIDR of a daemon's life: chosen before all else is built, remembered, told, and followed when it changes.

A choice takes effect by replacing what the configuration leaves open: `applied`. So the rest of the daemon knows only
its configuration, as before. Pods that run are never touched: their addresses and pools are in their records.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.node.clash import Others, beside
from reconciler.node.podcidr import Choice, Evidence, Source, judge
from reconciler.node.remembered import FILE, Remembered, read, renewed, save
from reconciler.node.shares import Change, Networks, change
from reconciler.node.sources import CLUSTER, OWN, SERVICES, look
from reconciler.operate.log import Once
from reconciler.parsers import Network
from reconciler.store import Store
from statemachine.attachment import Damaged, UnknownVersion

log = logging.getLogger("headcni")


class Keeper:
    def __init__(self, store: Store, warnings: Once, wall: Callable[[], float] = time.time) -> None:
        self._store = store
        self._once = warnings
        self._wall = wall
        self._may_write = True
        self._remembered = self._load()
        self._warned: tuple[Refusal, ...] = ()
        self._change: Change | None = None
        self._judged: Choice | None = None
        self._choice: Choice | None = None  # the same, with what other nodes have against it
        self._per_node = 0
        self.others = Others()
        self._said = ""
        self._saved = True

    def settle(self, config: Config, environ: Mapping[str, str], api: Networks | Refusal | None = None) -> Config:
        """The configuration with this node's CIDRs in it. Reads files for a second at most, and dials nobody."""
        self._take(config, look(config, environ, self._remembered, api, self.others.nodes))
        return self.applied(config)

    async def judge_again(self, config: Config, environ: Mapping[str, str], api: Networks) -> None:
        """As `settle`, beside other work; `applied` has the outcome."""
        evidence = await asyncio.to_thread(look, config, environ, self._remembered, api, self.others.nodes)
        self._take(config, evidence)

    def learn(self, others: Others) -> None:
        """What was chosen stays; what the other nodes have against it is told, or over."""
        self.others = others
        self._tell()

    def applied(self, config: Config) -> Config:
        """A configuration that was read again, with what was chosen before."""
        return applied(config, self._choice) if self._choice else config

    @property
    def guesses(self) -> bool:
        return self._choice is not None and self._choice.guess

    def follow(self, pools_in_use: Callable[[], Mapping[Network, int]]) -> bool:
        """Of a change: is it over? True: there is news for the status. Counts pods only while there is a change."""
        remembered, before = self._remembered, self._change
        if remembered is not None and not self._saved:
            self._remember(remembered)
        if remembered is None or not remembered.before:
            return False
        self._change = change(remembered.before, remembered.cidrs, pools_in_use())
        if self._change is not None and not self._change.finished:
            self._once.warn("podcidr change", _text(self._change.told))
            return self._change != before
        if self._change is not None:
            log.info("%s", self._change.told.msg)
        self._change = None
        self._once.clear("podcidr change")
        self._remember(replace(remembered, before=()))
        return True

    def data(self) -> dict[str, Any]:
        """For status.json."""
        if self._choice is None:
            return {}
        moving = self._change
        body = {"before": [str(cidr) for cidr in moving.before], "pods": moving.pods} if moving else None
        return {**as_data(self._choice), "change": body}

    def _take(self, config: Config, evidence: Evidence) -> None:
        choice = judge(evidence)
        line = f"{choice.phrase}: {_cidrs(choice.cidrs)} ({choice.looked_at})"
        line += f" cluster={_cidrs(choice.cluster_cidrs)} services={_cidrs(choice.service_cidrs)}"
        if line != self._said:
            log.info("%s", line)
        self._judged, self._said, self._per_node = choice, line, config.node_prefix
        self._tell()
        if choice.cidrs:
            self._remember(renewed(self._remembered, choice, self._wall()))

    def _tell(self) -> None:
        if self._judged is None:
            return
        choice = self._choice = beside(self._judged, self.others, self._per_node)
        for gone in self._warned:
            if gone not in choice.warnings:
                self._once.clear(f"podcidr {gone.msg}")
        for refusal in choice.warnings:
            self._once.warn(f"podcidr {refusal.msg}", _text(refusal))
        self._warned = choice.warnings

    # --- memory

    def _load(self) -> Remembered | None:
        path = f"{self._store.root}/{FILE}"
        try:
            return read(str(self._store.root))
        except UnknownVersion as error:
            self._may_write = False
            self._once.warn("podcidr file", f"{path} is newer: {error}; it is left alone, and nothing is remembered")
            return None
        except Damaged as error:
            reason = str(error)
        except OSError as error:
            reason = f"cannot be read: {os.strerror(error.errno or 0)}"
        self._store.quarantine(path, reason)
        self._once.warn("podcidr file", f"{path} was damaged ({reason}); it is in quarantine/, the sources count alone")
        return None

    def _remember(self, remembered: Remembered) -> None:
        if self._may_write and (remembered != self._remembered or not self._saved):
            self._remembered = remembered
            no_space = save(self._store, remembered)
            self._saved = no_space is None
            if no_space is not None:
                self._once.warn("podcidr space", f"{no_space.path} could not be written: {no_space.reason}; free space")
            else:
                self._once.clear("podcidr space")


def applied(config: Config, choice: Choice) -> Config:
    """Only what the operator left open is replaced."""
    chosen: dict[str, Networks] = {CLUSTER.field: choice.cluster_cidrs, SERVICES.field: choice.service_cidrs}
    if choice.source not in (Source.CONFIGURATION, Source.ENVIRONMENT):
        chosen[OWN.field] = choice.cidrs
    keys = {each.field: each.key for each in (OWN, CLUSTER, SERVICES)}
    open_ones = {name: value for name, value in chosen.items() if config.origins[keys[name]] == "default"}
    return replace(config, **open_ones)  # type: ignore[arg-type]


def as_data(choice: Choice) -> dict[str, Any]:
    return {
        "node": choice.node,
        "cidrs": [str(cidr) for cidr in choice.cidrs],
        "source": choice.source.value,
        "looked_at": choice.looked_at,
        "guess": choice.guess,
        "cluster_cidrs": [str(cidr) for cidr in choice.cluster_cidrs],
        "service_cidrs": [str(cidr) for cidr in choice.service_cidrs],
        "warnings": [_text(each) for each in choice.warnings],
        "findings": [
            {
                "about": each.about.value,
                "source": each.source.value,
                "looked_at": each.looked_at,
                "found": [str(cidr) for cidr in each.found],
                "taken": each.taken,
                "why": each.why,
                "code": int(each.trouble.code) if each.trouble else 0,
                "cure": each.trouble.details if each.trouble else "",
            }
            for each in choice.findings
        ],
    }


def _text(refusal: Refusal) -> str:
    return f"{refusal.msg}; {refusal.details}" if refusal.details else refusal.msg


def _cidrs(cidrs: Networks) -> str:
    return ",".join(map(str, cidrs)) or "none"
