"""Address ranges that overlap, with each other and with what is around this node."""

from __future__ import annotations

from cni.spec import Refusal
from reconciler.node import dump, overlap
from reconciler.operate.doctor.complaint import Examined, of
from reconciler.operate.doctor.patient import Patient


def examine(patient: Patient) -> Examined:
    view = patient.state.mesh_view() if patient.mesh and not isinstance(patient.state, Refusal) else None
    ranges = patient.ranges({way.prefix: way.name for way in view.ways} if view else None)
    around = overlap.read(ranges.mesh)
    found = overlap.judge(ranges, around, dump.link_name)
    saw = (
        f"{len(around.addresses)} addresses, {len(around.routes)} routes of others, {len(around.led_away)} of the mesh"
    )
    return Examined("", saw, tuple([of(each.refusal, each.fatal, each.where) for each in found]))
