"""The way to the Kubernetes API: what the daemon says of it; without one, what the files of each way tell; with
`--online`, every way is tried now.

Dialling stands here and nowhere else in the doctor, because it sends credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.kube.codes import Trouble
from reconciler.operate.doctor.complaint import Complaint, Examined, Level, of
from reconciler.operate.doctor.patient import Patient

if TYPE_CHECKING:
    from reconciler.kube.candidates import Candidate


def examine(patient: Patient) -> Examined:
    if patient.config.kube_mode == "off":
        return Examined("", "kube.mode is off")
    if patient.online:
        return asyncio.run(_online(patient))
    said = patient.status.kube if patient.status else {}
    if not (patient.lives and said):
        return _from_files(patient)
    return Examined("", said.get("endpoint") or "no way to it is known", tuple(_told(said)))


def _told(said: Mapping[str, Any]) -> list[Complaint]:
    """Each way that failed, and what fails on the one in use. Pods do without, so these are warnings."""
    condition = said.get("condition") or "its condition NetworkUnavailable was not seen"
    failed = [(each["way"], each["trouble"]) for each in said.get("tried", ())]
    failed.append((f"Node {said.get('node', '')}: {condition}", said.get("trouble")))
    told: dict[str, Complaint] = {}
    for seen, trouble in failed:
        if trouble:
            complaint = Complaint(Level.WARNING, trouble["what"], trouble["cure"], seen, trouble["code"])
            told.setdefault(complaint.what, complaint)
    return list(told.values())


def _from_files(patient: Patient) -> Examined:
    from reconciler.kube import surroundings
    from reconciler.kube.candidates import candidates
    from reconciler.kube.draft import inspect

    root = patient.config.node_root
    ways = candidates(patient.config, surroundings.look(root=root))
    found = [(way, inspect(way, root, patient.now)) for way in ways]
    complaints = [of(refusal, grave=False, evidence=str(way)) for way, refusal in found if refusal is not None]
    saw = f"the daemon says nothing of it; the files of {len(ways)} ways to it were read, and --online dials it"
    return Examined("", saw, tuple(complaints))


async def _online(patient: Patient) -> Examined:
    from reconciler.kube import surroundings
    from reconciler.kube.candidates import candidates

    ways = candidates(patient.config, await asyncio.to_thread(surroundings.look, root=patient.config.node_root))
    tried = await asyncio.gather(*[_try(way, patient.config) for way in ways])
    works = next((each.endpoint for each in tried if each.endpoint), "")
    complaints = [
        of(refusal, grave=bool(each.endpoint) or not works, evidence=each.endpoint or str(each.way))
        for each in tried
        for refusal in each.refusals
    ]
    if not ways:
        what = "no way to an API server is known: no kube.url, no kube.kubeconfig, no kubelet on this node"
        complaints.append(Complaint(Level.WARNING, what, "name a kubeconfig with kube.kubeconfig"))
    return Examined("", works or f"none of {len(ways)} ways leads to it", tuple(complaints))


@dataclass(frozen=True, slots=True)
class _Tried:
    way: Candidate
    endpoint: str  # empty: it leads nowhere
    refusals: Sequence[Refusal]


async def _try(way: Candidate, config: Config) -> _Tried:
    from reconciler.kube import rbac
    from reconciler.kube.assemble import dial, may_read_node
    from reconciler.kube.names import Names
    from reconciler.threads import Threads

    try:
        client = await dial(way, config, Threads(), Names())
    except TimeoutError:
        refusal = Refusal(Trouble.API_KUBECONFIG, f"{way}: its files could not be read", "see their file system")
        return _Tried(way, "", [refusal])
    if isinstance(client, Refusal):
        return _Tried(way, "", [client])
    try:
        refused = await may_read_node(client, config.node_name)
        if refused is not None:
            return _Tried(way, "", [refused])
        return _Tried(way, client.endpoint, await rbac.check(client, rbac.Role.DAEMON, config.node_name))
    finally:
        await client.close()
