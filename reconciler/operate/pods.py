"""`headcni pods`, `headcni show` and `headcni history`: what there is, all about one, and who held what when."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson

from cni.spec import REMEDIES, Code, Refusal
from reconciler.operate.find import (
    containers,
    ended_by,
    held,
    held_at,
    is_address,
    matches,
    parse_time,
)
from reconciler.operate.output import age, emit, fields, instant, instant_and_age, milliseconds, table
from reconciler.operate.statedir import Found, StateDir
from statemachine.attachment import Attachment, Link, Problem, encode


def pods(args: Namespace, state: StateDir, now: float) -> int:
    found = sorted(state.live(), key=lambda each: (str(each.record.pod), each.record.key))
    if args.output in ("json", "yaml"):
        emit(as_data(found, state), args.output)
        return 0
    print(_pod_table(found, now, args.output == "wide") if found else "no attachments")
    print_unreadable(state, args.output == "wide")
    return 0


def show(args: Namespace, state: StateDir, now: float) -> int | Refusal:
    found = [each for each in state.live() if matches(each.record, args.query)]
    if not found:
        found = [each for each in state.closed() if matches(each.record, args.query)]
    if not found:
        cure = "`headcni pods` lists those that live, `headcni history` those that are gone"
        return Refusal(Code.UNKNOWN_CONTAINER, f"no attachment matches {args.query!r}", cure)
    if args.output in ("json", "yaml"):
        emit(as_data(found, state), args.output)
        return 0
    if len(containers(found)) > 1:
        print(_history_table(found, now) if found[0].closed else _pod_table(found, now, wide=False))
        cure = "name one by its container id"
        return Refusal(Code.UNKNOWN_CONTAINER, f"{len(found)} attachments match {args.query!r}", cure)
    print("\n\n".join(_everything(each, now, args.output == "wide") for each in found))
    return 0


def history(args: Namespace, state: StateDir, now: float) -> int | Refusal:
    at = parse_time(args.at, now) if args.at else None
    if args.at and at is None:
        return Refusal(Code.INVALID_CONFIGURATION, f"--at {args.at!r} is no time", "write 03:12 or 2026-11-21T03:12")
    found = [each for each in state.all(at or 0.0) if not args.query or matches(each.record, args.query)]
    if at is not None:
        found = [each for each in found if held_at(each, at)]
    found.sort(key=lambda each: (held(each) or (each.record.created,))[0])
    if args.output in ("json", "yaml"):
        emit(as_data(found, state), args.output)
        return 0
    whom = args.query if args.query and is_address(args.query) else "an address"
    nothing = f"nobody held {whom} at {instant(at)}" if at else "no attachments"
    print(_history_table(found, now, args.output == "wide") if found else nothing)
    print_unreadable(state, args.output == "wide")
    return 0


def as_data(found: Sequence[Found], state: StateDir) -> dict[str, Any]:
    """The records as they are on disk, and the files that could not be read."""
    records = [orjson.loads(encode(each.record)) for each in found]
    return {"attachments": records, "unreadable": [asdict(each) for each in state.unreadable]}


def print_unreadable(state: StateDir, wide: bool) -> None:
    if state.unreadable:
        print("\n" + table(("CANNOT BE READ", "WHY"), [(each.file, each.why) for each in state.unreadable], wide))


def addresses(record: Attachment, all: bool = True) -> str:
    texts = [each.address.partition("/")[0] for each in record.addresses]
    return " ".join(texts) if all or len(texts) < 2 else f"{texts[0]} +{len(texts) - 1}"


# --- tables


def _pod_table(found: Sequence[Found], now: float, wide: bool) -> str:
    titles = ["POD", "ADDRESS", "STATE", "AGE", "CONTAINER", "PROBLEM"]
    rows = [_pod_row(each.record, now, wide) for each in found]
    if wide:
        titles[5:5] = ["INTERFACE", "HOST LINK", "MTU", "NETWORK"]
    return table(titles, rows, wide, cut=("POD", "PROBLEM"))


def _pod_row(record: Attachment, now: float, wide: bool) -> list[str]:
    container = record.container if wide else record.container[:12]
    row = [str(record.pod), addresses(record, wide), record.state.value, age(record.created, now), container]
    if wide:
        link = record.link
        row += [record.ifname, link.host if link else "", str(link.mtu) if link else "", record.network]
    return [*row, _problem(record.problem, now) if record.problem else ""]


def _history_table(found: Sequence[Found], now: float, wide: bool = False) -> str:
    titles = ["ADDRESS", "POD", "SINCE", "FOR", "CONTAINER", "ENDED BY"]
    return table(titles, [_history_row(each, now, wide) for each in found], wide, cut=("POD", "ENDED BY"))


def _history_row(found: Found, now: float, wide: bool) -> list[str]:
    record = found.record
    start, end = held(found) or (record.created, found.closed)
    container = record.container if wide else record.container[:12]
    outcome = ended_by(record) if end else f"{record.state.value} now"
    return [addresses(record, wide), str(record.pod), instant(start), age(start, end or now), container, outcome]


def _problem(problem: Problem, now: float) -> str:
    wait = f", next try in {age(now, problem.next_try)}" if problem.next_try > now else ", next try is due"
    return f"{problem.step}: {problem.msg} (attempt {problem.attempt}{wait})"


# --- everything about one


def _everything(found: Found, now: float, wide: bool) -> str:
    record = found.record
    pairs = [
        ("pod", f"{record.pod} {record.pod.uid}".strip()),
        ("container", f"{record.container}, interface {record.ifname}"),
        ("state", f"{record.state.value} since {instant_and_age(record.since, now)}, goal {record.goal.value}"),
        ("problem", _problem(record.problem, now) if record.problem else ""),
        ("", record.problem.details if record.problem else ""),
        ("cure", _cure(record.problem.code) if record.problem else ""),
        ("created", f"{instant_and_age(record.created, now)}, generation {record.generation}"),
        (
            "addresses",
            "\n".join(f"{a.address} gateway {a.gateway or 'none'}, from {a.pool}" for a in record.addresses),
        ),
        ("link", _link(record.link) if record.link else ""),
        ("routes", "\n".join(f"{r.dst} via {r.gw}" if r.gw else r.dst for r in record.routes)),
        ("dns", " ".join((*record.dns.nameservers, *record.dns.search))),
        ("namespace", f"{record.netns.path} ({record.netns.dev}:{record.netns.ino})" if record.netns else ""),
        ("network", f"{record.network}, CNI {record.cni_version}"),
        ("boot", record.boot_id),
        ("trace", record.traceparent),
    ]
    steps = [(instant(v.at, "milliseconds"), milliseconds(v.took_ms), v.state.value, v.cause) for v in record.history]
    visits = table(("AT", "TOOK", "STATE", "BECAUSE"), steps, wide)
    return fields([(name, value) for name, value in pairs if value]) + "\n\n" + visits


def _cure(code: int) -> str:
    """Codes of other plugins mean something only to them."""
    return next((cure for ours, (_, cure) in REMEDIES.items() if ours == code), "")


def _link(link: Link) -> str:
    host = f"{link.host} (index {link.host_index}, {link.host_mac})"
    return f"{host} to {link.pod} (index {link.pod_index}, {link.pod_mac}), MTU {link.mtu}"
