"""Does a daemon run, does it move, and what does it complain of that no theme found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cni.plugin import stillness
from cni.spec import Code
from reconciler.operate.doctor.complaint import Complaint, Examined, Level
from reconciler.operate.doctor.patient import Patient
from reconciler.operate.output import age, instant_and_age

NAME = "daemon"


def examine(patient: Patient, told: Sequence[Complaint]) -> Examined:
    """`told`: what the themes found."""
    return Examined(NAME, _saw(patient), tuple(_complaints(patient, told)))


def _saw(patient: Patient) -> str:
    said = patient.status
    if patient.lives and said:
        return f"version {said.version}, pid {said.pid}, for {age(said.started, patient.now)}"
    return "runs, and has said nothing yet" if patient.lives else "none runs"


def _complaints(patient: Patient, told: Sequence[Complaint]) -> Iterator[Complaint]:
    said = patient.status
    if not patient.lives:
        last = f"the last one wrote {instant_and_age(said.written, patient.now)}" if said else ""
        what = "no daemon runs on this node: new pods get no network; those that run keep theirs"
        yield _complaint(Level.ERROR, what, "start it, and see its log", last, Code.UNAVAILABLE)
        return
    if patient.still:
        yield _complaint(Level.ERROR, *stillness(patient.still), "", Code.UNAVAILABLE)
    if said is None:
        return
    words = [each.what for each in told]
    for reason in said.not_ready:
        what = ": ".join(filter(None, (reason.what, reason.why)))
        if not _known(what, words):
            yield _complaint(Level.ERROR, what, reason.cure, "the daemon's own words", said.cni_code)
            words.append(reason.what)
    for warning in said.warnings:
        if not _known(warning, words):
            what, _, cure = warning.partition("; ")
            yield _complaint(Level.WARNING, what, cure or "docs/operations.md has a table of warnings", "its own words")


def _known(text: str, words: Iterable[str]) -> bool:
    return any(each in text for each in words)


def _complaint(level: Level, what: str, cure: str, evidence: str, code: int = 0) -> Complaint:
    return Complaint(level, what, cure, evidence, int(code), NAME)
