"""`headcni podcidr`: which CIDR this node's pods get, where it comes from, and what every other source says.

While a daemon runs, and no other configuration is named, this is the daemon's own account. Otherwise it is what a
daemon with this configuration would choose now, from configuration, files and what an earlier start remembered; no API
is asked. Exit code 1: there is no more than a guess.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.node.formats import About
from reconciler.node.keeper import as_data
from reconciler.node.podcidr import judge
from reconciler.node.remembered import FILE, Remembered, read
from reconciler.node.sources import look
from reconciler.operate.configure import loader, refused
from reconciler.operate.output import emit, fields, instant_and_age, table
from reconciler.operate.statedir import open_state
from reconciler.operate.status import Status
from reconciler.settings import SETTINGS
from statemachine.attachment import Damaged, UnknownVersion

PLACE_WIDTH = 36
TITLES = {About.NODE: "THIS NODE'S", About.CLUSTER: "THE CLUSTER'S", About.SERVICES: "SERVICES'"}
ABSENT = "no such file"


def podcidr(args: Namespace) -> int | Refusal:
    config = loader(args)()
    if not isinstance(config, Config):
        return refused(config)
    status = None if _names_a_configuration(args) else _of_the_daemon(config)
    data = status.pod_cidr_source if status else as_data(judge(look(config, os.environ, _remembered(config))))
    if args.output in ("json", "yaml"):
        emit({"by_daemon": status is not None, "as_of": status.written if status else time.time(), **data}, args.output)
    else:
        _print(data, status, args.output == "wide")
    return 1 if data["guess"] or not data["cidrs"] else 0


def _names_a_configuration(args: Namespace) -> bool:
    keys = [setting.field for setting in SETTINGS if setting.key != "stateDir"]
    return bool(args.config) or any(getattr(args, key, None) is not None for key in keys)


def _of_the_daemon(config: Config) -> Status | None:
    state = open_state(config.state_dir)
    if isinstance(state, Refusal) or not state.daemon_lives():
        return None
    status = state.status()
    return status if status and status.pod_cidr_source else None


def _remembered(config: Config) -> Remembered | None:
    try:
        return read(str(config.state_dir))
    except (Damaged, UnknownVersion) as error:
        why = str(error)
    except OSError as error:
        why = os.strerror(error.errno or 0)
    print(f"warning: {config.state_dir}/{FILE} is passed over: {why}", file=sys.stderr)
    return None


def _print(data: Mapping[str, Any], status: Status | None, wide: bool) -> None:
    moving = data.get("change")
    pairs = [
        ("pod CIDR", " ".join(data["cidrs"]) + " (a GUESS)" * data["guess"] if data["cidrs"] else "none"),
        ("source", f"{data['source']}: {data['looked_at']}"),
        ("node", data["node"]),
        ("cluster CIDR", " ".join(data["cluster_cidrs"]) or "unknown"),
        ("Services", " ".join(data["service_cidrs"]) or "unknown"),
        ("change", f"from {' '.join(moving['before'])}; pods that still have it: {moving['pods']}" if moving else ""),
        ("as of", f"the daemon, {instant_and_age(status.written, time.time())}" if status else _now()),
        ("warnings", "\n".join(data["warnings"])),
    ]
    print(fields([(name, value) for name, value in pairs if value]))
    for about, title in TITLES.items():
        print("\n" + _findings([each for each in data["findings"] if each["about"] == about.value], title, wide))


def _now() -> str:
    return "now, from configuration and files: a daemon that starts would take it"


def _findings(found: Sequence[Mapping[str, Any]], title: str, wide: bool) -> str:
    """In the order in which they are asked, but for the winner, which comes first."""
    shown = [each for each in found if wide or each["about"] == About.NODE.value or each["why"] != ABSENT]
    rows = [
        (
            ("* " if each["taken"] else "  ") + each["source"],
            " ".join(each["found"]),
            each["looked_at"] if wide else _short(each["looked_at"]),
            " ".join(filter(None, (f"[{each['code']}]" if each["code"] else "", each["why"]))),
        )
        for each in sorted(shown, key=lambda each: not each["taken"])
    ]
    text = table((title, "FOUND", "LOOKED AT", "WHY"), rows, wide, cut=("FOUND", "WHY"))
    absent = len(found) - len(shown)
    return text + (f"\n  and {absent} files that are not there (-o wide)" if absent else "")


def _short(place: str) -> str:
    """The end of a path tells more than its beginning."""
    if len(place) <= PLACE_WIDTH:
        return place
    return "…" + place[1 - PLACE_WIDTH :] if place.startswith("/") else place[: PLACE_WIDTH - 1] + "…"
