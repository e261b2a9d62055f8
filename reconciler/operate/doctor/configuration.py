"""What is wrong, or suspicious, with settings as this command sees them. A daemon may have been given flags."""

from __future__ import annotations

from cni.spec import Code
from reconciler.operate.doctor.complaint import Complaint, Examined, Level
from reconciler.operate.doctor.patient import Patient


def examine(patient: Patient) -> Examined:
    wrong = [
        Complaint(
            Level.ERROR,
            f"{each.key}{f' = {each.value}' if each.value else ''}: {each.what}",
            each.cure,
            f"from {each.origin}",
            Code.INVALID_CONFIGURATION,
        )
        for each in patient.problems
    ]
    doubtful = [
        Complaint(Level.WARNING, each, "`headcni config` shows each value and where it comes from")
        for each in patient.config.warnings
    ]
    given = sum(origin != "default" for origin in patient.config.origins.values())
    return Examined("", f"{given} settings are given, the others are defaults", (*wrong, *doubtful))
