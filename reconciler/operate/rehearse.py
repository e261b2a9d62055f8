"""`headcni replay DIR`: what a daemon that starts on this directory would do, told without doing it.

Made for a directory that was copied from a node to wherever it is looked at. Nothing is asked of this machine: of
namespaces and links nothing is known, so nothing is said to be gone, and the clock stands at the latest call in the
directory. The daemon of that node may therefore do more (tear down what is gone), but not something else.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from cni.spec import Verb
from reconciler.operate.output import emit, table
from reconciler.operate.pods import addresses
from reconciler.operate.statedir import StateDir, Unreadable
from statemachine.attachment import Attachment
from statemachine.intent import Intent
from statemachine.machine import Close, Delete, Do, Event, Lost, Resume, decide
from statemachine.replay import Fate, World, plan_intent, plan_restart

FATES = {
    Fate.EXECUTE: "is executed",
    Fate.DISCARD: "is discarded: its deadline has passed",
    Fate.UNLINK: "is removed: it was answered before",
}


def replay(args: Namespace, state: StateDir, now: float) -> int:
    records = [each.record for each in state.live()]
    intents = state.intents()
    boot_id = _boot_id(state, records, intents) if args.boot_id == "same" else "another boot"
    clock = max((intent.name.made_ns for intent in intents), default=0)
    answered = state.answered()
    fates = [(each, plan_intent(each, each.name.stem in answered, boot_id, clock)) for each in intents]
    adds = frozenset(i.key for i, fate in fates if i.verb is Verb.ADD and fate is Fate.EXECUTE)
    events = [(record, plan_restart(record, World(boot_id, pending_adds=adds))) for record in records]
    rows = [
        *[(each.file, "unreadable", "", _aside(each)) for each in state.unreadable],
        *[
            (record.key, record.state.value, addresses(record, args.output != "table"), _told(record, event))
            for record, event in events
        ],
        *[(intent.key, intent.verb.value, "", FATES[fate]) for intent, fate in fates],
    ]
    if args.output in ("json", "yaml"):
        keys = ("subject", "is", "addresses", "then")
        emit({"boot_id": boot_id, "plan": [dict(zip(keys, row, strict=True)) for row in rows]}, args.output)
        return 0
    subject = [(_short(row[0]) if args.output == "table" else row[0], *row[1:]) for row in rows]
    titles = ("SUBJECT", "IS", "ADDRESS", "A DAEMON THAT STARTS")
    shown = table(titles, subject, args.output == "wide")
    print(shown if rows else "nothing to do: no records, no intents")
    return 0


def _boot_id(state: StateDir, records: Sequence[Attachment], intents: Sequence[Intent]) -> str:
    """Of the node when it was copied: the latest that any file speaks of."""
    said = state.status()
    candidates = [(record.created, record.boot_id) for record in records]
    candidates += [(intent.wall_ns / 1e9, intent.boot_id) for intent in intents if intent.boot_id]
    if said:
        candidates.append((said.written, said.boot_id))
    return max(candidates, default=(0.0, ""))[1]


def _told(record: Attachment, event: Event | None) -> str:
    if event is None:
        return "keeps it" if record.answered else "keeps it for the ADD that waits"
    effects = decide(record, event, record.since).effects
    work = " and ".join(effect.step.value for effect in effects if isinstance(effect, Do))
    if any(isinstance(effect, Close) for effect in effects):
        work = "file it in the history"
    match event:
        case Delete(cause) | Lost(cause):
            return f"will {work}: {cause}"
        case Resume():
            return f"goes on: will {work}"
        case _:
            raise AssertionError(event)


def _aside(file: Unreadable) -> str:
    return f"leaves it alone: {file.why}" if file.newer else f"moves it to quarantine: {file.why}"


def _short(subject: str) -> str:
    container, at, ifname = subject.rpartition("@")
    return f"{container[:12]}@{ifname}" if at and "/" not in subject else subject
