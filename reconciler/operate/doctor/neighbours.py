"""Others on this node: who serves Services, whose network the runtime takes, which firewall drops pods' packets."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.kube.codes import Trouble
from reconciler.node import neighbours
from reconciler.node.kubeproxy import Mode
from reconciler.node.lookout import mesh_device
from reconciler.node.meshlink import MeshLink
from reconciler.node.neighbours import Neighbours
from reconciler.operate.doctor.complaint import Complaint, Examined, Level, of
from reconciler.operate.doctor.patient import Patient

RULES = (Mode.IPTABLES, Mode.NFTABLES)  # modes in which Services have no address on this node


def examine(patient: Patient) -> Examined:
    config, ranges = patient.config, patient.ranges()
    seen = neighbours.look(config.node_root, str(config.cni_conf_dir))
    device = mesh_device() if ranges.mesh else ""
    found = neighbours.hindrances(seen, ranges.pods, ranges.cluster, device)
    complaints = [of(each.refusal, each.grave, _evidence(each.refusal.code, seen)) for each in found]
    complaints += [*_blind(seen), *_services(patient, seen)]
    return Examined("", f"kube-proxy: {seen.proxy.mode} ({', '.join(seen.proxy.evidence)})", tuple(complaints))


def _evidence(code: int, seen: Neighbours) -> str:
    if code == Trouble.KUBE_PROXY:
        return ", ".join(seen.proxy.evidence)
    return "the runtime takes the first file by name" if code == Trouble.OTHER_CNI else "nft list ruleset"


def _blind(seen: Neighbours) -> Iterator[Complaint]:
    for each in seen.blind:
        cure = "run this as root, with the command that is named: firewalls and kube-proxy are told by their rules"
        yield Complaint(Level.WARNING, f"the packet filter could not be looked at: {each}", cure)


def _services(patient: Patient, seen: Neighbours) -> Iterator[Complaint]:
    """kube-proxy rewrites a packet of this node after it was routed by the Service's address: some route must be."""
    for cidr in patient.ranges().services if seen.proxy.mode in RULES else ():
        way = MeshLink().way_to(cidr.network_address + 1)
        if way.refused:
            what = f"this node itself cannot reach Services ({cidr}): {way.refused}; pods can"
            cure = f"give it a default route, or a route for {cidr} by any interface"
            yield Complaint(Level.WARNING, what, cure, f"ip route get {cidr.network_address + 1}", Trouble.KUBE_PROXY)
