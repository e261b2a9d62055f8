"""`headcni status`: is this node able to serve, and if not, why and what to do.

The attachments are counted from their own files, which are true with the daemon down as well. Pools, mesh and
readiness are what the daemon last wrote, and marked so when it no longer lives. Exit code 1 means not ready.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cni.plugin import STILL_SECONDS, stillness
from reconciler.operate.output import age, emit, fields, instant_and_age, table
from reconciler.operate.pods import print_unreadable
from reconciler.operate.statedir import Found, StateDir
from reconciler.operate.status import Status
from statemachine.attachment import State

POOL_COLUMNS = ("subnet", "size", "held", "cooling", "reserved", "free")


def status(args: Namespace, state: StateDir, now: float) -> int:
    lives, said, live = state.daemon_lives(), state.status(), state.live()
    waiting, quarantine = len(state.intents()), state.quarantine()
    still = _still(said) if lives else None
    ready = lives and said is not None and said.ready and still is None
    if args.output in ("json", "yaml"):
        emit(
            {
                "daemon_lives": lives,
                "ready": ready,
                "status": asdict(said) if said else None,
                "counts": _counts(live),
                "intents": waiting,
                "quarantine": [asdict(each) for each in quarantine],
                "unreadable": [asdict(each) for each in state.unreadable],
            },
            args.output,
        )
        return 0 if ready else 1
    pairs = [
        ("daemon", _daemon(lives, said, now)),
        ("ready", f"no: {still}" if still else _readiness(lives, said)),
        ("state", str(state.root)),
        ("pods", _pods(live)),
        ("intents", f"{waiting} waiting" if waiting else ""),
        *_said(said),
        ("quarantine", "\n".join(f"{each.file}: {each.why}" for each in quarantine)),
    ]
    print(fields([(name, value) for name, value in pairs if value]))
    if said and said.pools:
        print("\n" + _pools(said.pools, args.output == "wide"))
    print_unreadable(state, args.output == "wide")
    return 0 if ready else 1


def _daemon(lives: bool, said: Status | None, now: float) -> str:
    if lives and said:
        return f"runs, version {said.version}, pid {said.pid}, for {age(said.started, now)}"
    if lives:
        return "runs, but has not written its status yet"
    last = f"; the last one wrote {instant_and_age(said.written, now)}" if said else ""
    return f"none runs on this node{last}"


def _still(said: Status | None) -> str | None:
    """As the plugin's STATUS has it: a hung daemon keeps its lock, and its last words."""
    seconds = (time.monotonic_ns() - said.cni_beat) // 1_000_000_000 if said else 0
    return None if 0 <= seconds <= STILL_SECONDS else "; ".join(stillness(seconds))


def _readiness(lives: bool, said: Status | None) -> str:
    if not lives:
        return "no: ADD waits for a daemon; pods that run keep their network; start the daemon"
    if said is None:
        return "no: the daemon is starting"
    if said.ready:
        return "yes"
    reasons = [f"{': '.join(filter(None, (each.what, each.why)))}; {each.cure}" for each in said.not_ready]
    return "no\n" + "\n".join(reasons or [said.cni_msg])


def _said(said: Status | None) -> list[tuple[str, str]]:
    if said is None:
        return []
    return [
        ("pod CIDRs", _pod_cidrs(said)),
        ("mesh", _mesh(said.mesh)),
        ("kubernetes", _kubernetes(said.kube)),
        ("policy", said.network_policy),
        ("warnings", "\n".join(said.warnings)),
    ]


def _pod_cidrs(said: Status) -> str:
    """And where they come from; `headcni podcidr` has the rest."""
    chosen, text = said.pod_cidr_source, " ".join(said.pod_cidrs)
    if not chosen:
        return text
    kind = "a GUESS from" if chosen["guess"] else "from"
    moving = chosen.get("change")
    left = f"\nbefore: {' '.join(moving['before'])}, pods that still have it: {moving['pods']}" if moving else ""
    return f"{text or 'none'}, {kind} {chosen['looked_at']}{left}"


def _mesh(said: Mapping[str, Any]) -> str:
    """In force, or the missing link; `headcni mesh status` has the rest."""
    routes = said.get("static_routes") or []
    text = f"{said.get('mode', 'none')}" + (f", {len(routes)} static route{'s'[: len(routes) != 1]}" if routes else "")
    if "in_force" not in said:
        return text
    missing = [f"{prefix} is NOT in force: {each['what']}; {each['cure']}" for prefix, each in said["missing"].items()]
    force = "\n".join(missing) or ("in force" if said["in_force"] else "nothing of this node's is announced")
    peers = f"{said['peers_online']} of {said['peers']} peers online"
    ways = f"{said['ways_reachable']} of {said['ways']} pod ranges of other nodes answer"
    wrong = len(said["findings"])
    more = f"\n{wrong} finding{'s'[: wrong != 1]}, see `headcni mesh status`" if wrong else ""
    return f"{text}: {force}\n{peers}, {ways}{more}"


def _kubernetes(said: Mapping[str, Any]) -> str:
    """What the Node says of its network, and by which way that is known; or what is wrong. Pods do without."""
    if not said:
        return ""
    trouble = said.get("trouble")
    told = f"Node {said['node']}: {said['condition'] or 'nothing told yet'}"
    way = f"by {said['endpoint']}" if said["endpoint"] else "no way to an API server"
    wrong = f"\n{trouble['what']}; {trouble['cure']}" if trouble else ""
    blind = said.get("others", {}).get("trouble")
    if blind:
        wrong += f"\nwhether other Nodes have the same pod CIDR is not known: {blind['what']}"
    return f"{told}, {way}{'' if said['up_to_date'] else ', NOT up to date'}{wrong}"


def _counts(live: Sequence[Found]) -> dict[str, int]:
    counts = Counter(each.record.state for each in live)
    return {state.value: counts[state] for state in State if counts[state]}


def _pods(live: Sequence[Found]) -> str:
    by_state = ", ".join(f"{count} {state}" for state, count in _counts(live).items())
    stuck = [each.record for each in live if each.record.problem]
    text = f"{len(live)} ({by_state})" if live else "0"
    return text + (f"; {len(stuck)} with a problem, see `headcni pods`" if stuck else "")


def _pools(pools: Sequence[Any], wide: bool) -> str:
    more = [key for key in pools[0] if key not in POOL_COLUMNS] if wide else []
    columns = [*POOL_COLUMNS, *more]
    rows = [[str(pool.get(column, "")) for column in columns] for pool in pools]
    return table([column.upper().replace("_", " ") for column in columns], rows, wide)
