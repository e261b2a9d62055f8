"""The state directory: what hinders single pods, what cannot be read, what waits, whether there is room."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator

from cni.spec import REMEDIES, Code, Refusal
from reconciler.mesh.codes import REMEDIES as MESH_REMEDIES
from reconciler.operate.doctor.complaint import Complaint, Examined, Level, of
from reconciler.operate.doctor.patient import Patient
from reconciler.operate.output import age
from reconciler.operate.statedir import Found, StateDir
from statemachine.intent import Intent

PATIENCE = 30.0  # seconds: what a plugin waits for by default


def examine(patient: Patient) -> Examined:
    state = patient.state
    if isinstance(state, Refusal):
        return Examined("", f"{patient.root} could not be read", (of(state, grave=True),))
    intents = state.intents()
    complaints = (
        *_stuck(patient),
        *_twice(patient.live),
        *_waiting(intents),
        *_unreadable(state),
        *_no_room(patient),
    )
    return Examined("", f"{len(patient.live)} attachments, {len(intents)} calls waiting, in {patient.root}", complaints)


def _stuck(patient: Patient) -> Iterator[Complaint]:
    for record in (found.record for found in patient.live):
        problem = record.problem
        if problem is not None:
            what = f"{record.pod or record.key} is {record.state.value} only: {problem.step}: {problem.msg}"
            lasting = f"attempt {problem.attempt}, since {age(record.since, patient.now)}"
            lasting += f"; `headcni show {record.container[:12]}`"
            yield Complaint(Level.WARNING, what, problem.details or _remedy(problem.code), lasting, problem.code)


def _remedy(code: int) -> str:
    known = {int(each): cure for each, (_, cure) in (*REMEDIES.items(), *MESH_REMEDIES.items())}
    return known.get(code, "it is another plugin's code: see its documentation")


def _twice(live: tuple[Found, ...]) -> Iterator[Complaint]:
    holders = defaultdict(list)
    for record in (found.record for found in live):
        for each in record.addresses:
            holders[each.ip].append(str(record.pod) or record.key)
    for address, pods in holders.items():
        if len(pods) > 1:
            what = f"{address} is held by {' and '.join(pods)}"
            yield Complaint(
                Level.ERROR, what, "delete one of these pods", "files were copied or edited, or are of two nodes"
            )


def _waiting(intents: list[Intent]) -> Iterator[Complaint]:
    made = [each.name.made_ns for each in intents]
    longest = (time.monotonic_ns() - min(made)) / 1e9 if made else 0.0
    if longest > PATIENCE:
        what = f"{len(intents)} calls of the plugin wait, the longest for {longest:.0f} s"
        cure = "see whether a daemon runs; else `headcni pods` shows what it works on"
        yield Complaint(Level.WARNING, what, cure, "intents/", Code.TRY_AGAIN_LATER)


def _unreadable(state: StateDir) -> Iterator[Complaint]:
    for each in state.quarantine():
        cure = "see what damaged it, then delete it and the file beside it"
        yield Complaint(Level.WARNING, f"{each.file}: {each.why}", cure, str(state.root), Code.IO_FAILURE)
    for each in state.unreadable:
        cure = "use the `headcni` that came with the daemon" if each.newer else "the daemon puts it into quarantine"
        yield Complaint(Level.WARNING, f"{each.file}: {each.why}", cure, str(state.root), Code.IO_FAILURE)


def _no_room(patient: Patient) -> Iterator[Complaint]:
    room = os.statvfs(patient.root)
    for free, whole, name in ((room.f_bavail, room.f_blocks, "space"), (room.f_favail, room.f_files, "inodes")):
        if whole and not free:
            what = f"the file system of {patient.root} has no {name} left: no pod can be added"
            yield Complaint(Level.ERROR, what, f"free {name} there", f"0 of {whole}", Code.IO_FAILURE)
