"""Every theme is looked at, at once and within a bound, whatever becomes of the others.

In threads that nobody waits for in the end: one that a dead file system holds must hold neither the answer nor the
exit of the program.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from cni.spec import Code
from reconciler.operate.doctor.complaint import Complaint, Examined, Level
from reconciler.operate.doctor.patient import Patient

SECONDS = 30.0
Theme = Callable[[Patient], Examined]


def examine(themes: Mapping[str, Theme], patient: Patient, seconds: float = SECONDS) -> tuple[Examined, ...]:
    results: dict[str, Examined] = {}
    threads = [
        threading.Thread(target=_examine, args=(name, theme, patient, results), name=name, daemon=True)
        for name, theme in themes.items()
    ]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, give_up - time.monotonic()))
    return tuple(results.get(name) or _too_long(name, seconds) for name in themes)


def _examine(name: str, theme: Theme, patient: Patient, results: dict[str, Examined]) -> None:
    try:
        examined = theme(patient)
    except Exception as fault:  # noqa: BLE001  # a supervisor: a fault in one theme must not hide what others found
        what = f"looking at this failed: {fault!r}"
        wrong = Complaint(Level.WARNING, what, "report it, with this whole output", code=Code.INTERNAL_FAULT)
        examined = Examined(name, "it could not be looked at", (wrong,))
    complaints = tuple([replace(each, theme=name) for each in examined.complaints])
    results[name] = Examined(name, examined.saw, complaints)


def _too_long(name: str, seconds: float) -> Examined:
    what = f"looking at this took longer than {seconds:g} s"
    cure = "see what this node waits for: file systems that hang (dmesg), a load that is too high"
    return Examined(name, "it could not be looked at", (Complaint(Level.WARNING, what, cure, theme=name),))
