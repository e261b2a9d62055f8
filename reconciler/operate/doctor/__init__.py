"""`headcni doctor`: everything that is wrong with this node, at once, worst first, each with its cure.

It asks nobody: it reads the daemon's files, the node's files and the kernel, each within a bound, and changes nothing.
Only `--online` dials the Kubernetes API, and only `--bundle` writes: the file that it was told to. Each theme is one
module with one function, which gets a `Patient` and gives an `Examined`; one that hangs or fails is itself a complaint
and costs none of the others.

What the daemon says of itself (`status.json`) is told as well, except what a theme found by itself: a theme knows code
and evidence. Where a daemon runs, its plumbing is not looked at again: it does so every few seconds, and knows by what
flags it was started.
"""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path

from cni.spec import Refusal
from reconciler.operate.doctor import (
    api,
    configuration,
    daemon,
    mesh,
    neighbours,
    overlaps,
    page,
    plumbing,
    podcidr,
    records,
)
from reconciler.operate.doctor.complaint import worst_first
from reconciler.operate.doctor.patient import meet
from reconciler.operate.doctor.rounds import examine
from reconciler.operate.output import emit

THEMES = {
    "configuration": configuration.examine,
    "records": records.examine,
    "pod CIDR": podcidr.examine,
    "node": plumbing.examine,
    "overlap": overlaps.examine,
    "mesh": mesh.examine,
    "neighbours": neighbours.examine,
    "Kubernetes": api.examine,
}


def doctor(args: Namespace) -> int | Refusal:
    patient = meet(args, time.time())
    examined = examine(THEMES, patient)
    found = [each for theme in examined for each in theme.complaints]
    examined = (daemon.examine(patient, found), *examined)
    complaints = worst_first([*examined[0].complaints, *found])
    if args.bundle:
        from reconciler.operate.doctor.bundle import write

        refusal = write(Path(args.bundle), patient, page.as_data(complaints, examined))
        if refusal is not None:
            return refusal
    if args.output in ("json", "yaml"):
        emit(page.as_data(complaints, examined), args.output)
    else:
        print(page.page(complaints, examined, args.output == "wide"))
    return 1 if complaints else 0
