"""Where this node's pod CIDR comes from, and what the other sources say."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.kube.codes import Trouble
from reconciler.operate.doctor.complaint import Complaint, Examined, Level
from reconciler.operate.doctor.patient import Patient


def examine(patient: Patient) -> Examined:
    said = patient.cidrs
    guess = " (a guess)" if said["guess"] else ""
    return Examined("", f"{' '.join(said['cidrs']) or 'none'}{guess}, from {said['looked_at']}", tuple(_found(patient)))


def _found(patient: Patient) -> Iterator[Complaint]:
    said = patient.cidrs
    told = {f"{each['why']}; {each['cure']}": each for each in said["findings"] if each["code"]}
    for text in said["warnings"]:
        what, _, cure = text.partition("; ")
        finding = told.get(text)
        if finding is not None:
            yield Complaint(Level.WARNING, finding["why"], finding["cure"], finding["looked_at"], finding["code"])
        else:
            code = int(Trouble.CIDR_GUESSED) if said["guess"] and "GUESS" in what else 0
            yield Complaint(Level.WARNING, what, cure, "`headcni podcidr`", code)
    if not said["cidrs"]:
        what = "this node has no pod CIDR: pods get addresses only from networks that name a subnet of their own"
        cure = "set network.podCIDR.nodeLocal (--pod-cidr)"
        yield Complaint(Level.ERROR, what, cure, "`headcni podcidr`", int(Trouble.CIDR_GUESSED))
