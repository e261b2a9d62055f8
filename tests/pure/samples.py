"""Attachments, intents and a status as they are in the life of a pod; the golden files hold the same."""

from __future__ import annotations

from dataclasses import replace

from cni.result import Dns, Route
from cni.spec import Refusal
from reconciler.operate.status import NotReady, Status
from statemachine.attachment import Address, Attachment, Link, Namespace, Pod, State
from statemachine.machine import Done, Failed, Step, decide

BOOT = "0b7ad3a1-5a2c-4c0f-9d3b-6f3a3f0c2f11"
CONTAINER = "4f5c0d9ab1e24f3a8c1b5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f809102"
BORN = 1795260754.25

ADDRESSES = (
    Address("10.244.1.7/32", "10.244.1.1", "10.244.1.0/24"),
    Address("fd00:244:1::7/128", "fd00:244:1::1", "fd00:244:1::/64"),
)
LINK = Link("hcni5d41402abc4b", "eth0", "0a:58:00:00:00:01", "0a:58:0a:f4:01:07", 1280, 12, 2)


def requested(**changes) -> Attachment:
    record = Attachment(
        container=CONTAINER,
        ifname="eth0",
        goal=State.ADVERTISED,
        network="tailscale-cni",
        cni_version="1.1.0",
        boot_id=BOOT,
        created=BORN,
        since=BORN,
        pod=Pod("default", "web-0", "2f1c9d2e-0a64-4b0e-8f62-0d1b7f1d9a10"),
        netns=Namespace("/run/netns/cni-3f1a", 4, 4026532611),
        config={"mtu": 1280, "ipam": {"type": "headcni-ipam", "allocation_strategy": "sequential"}},
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    return replace(record, **changes)


def in_state(state: State, **changes) -> Attachment:
    """Brought there by the machine itself, so that its history is what a daemon would have written."""
    record = requested(**{name: value for name, value in changes.items() if name in ("goal", "container", "pod")})
    facts = {
        Step.ALLOCATE: {
            "addresses": ADDRESSES,
            "routes": (Route("0.0.0.0/0", "10.244.1.1"), Route("::/0", "fd00:244:1::1")),
            "dns": Dns(nameservers=("10.96.0.10",), search=("default.svc.cluster.local",)),
        },
        Step.WIRE: {"link": LINK},
        Step.ADVERTISE: {},
    }
    reached = {State.REQUESTED: 0, State.ALLOCATED: 1, State.WIRED: 2}.get(state, 3)
    for number, step in enumerate(list(facts)[:reached]):
        record = decide(record, Done(step, 1.5 + number, facts[step]), BORN + 0.01 * (number + 1)).record
    if state in (State.TEARING_DOWN, State.TORN_DOWN):
        record = deleted(record, "DEL", BORN + 3600)
    if state is State.TORN_DOWN:
        done = Done(Step.TEAR_DOWN, 17.25, {"closed_mono": 7200.5})
        record = decide(record, done, BORN + 3600.02).record
    return replace(record, **changes)


def deleted(record: Attachment, cause: str, at: float) -> Attachment:
    from statemachine.machine import Delete

    return decide(record, Delete(cause), at).record


def stuck() -> Attachment:
    record = in_state(State.WIRED)
    for attempt in range(3):
        refusal = Refusal(106, "RTM_NEWROUTE was refused: Network is unreachable", "10.244.2.0/24 via 192.0.2.2")
        record = decide(record, Failed(Step.ADVERTISE, 2.0, refusal), BORN + attempt).record
    return record


STATUS = Status(
    ready=False,
    cni_code=50,
    cni_msg="pool 10.244.1.0/24 is empty: 253 of 253 addresses are held",
    cni_details="delete pods, or give the node a larger subnet",
    version="0.1.0",
    pid=4711,
    boot_id=BOOT,
    started=BORN - 60,
    written=BORN + 5,
    cni_beat=81_345_000_000_000,
    not_ready=(
        NotReady(
            "pool 10.244.1.0/24 is empty: 253 of 253 addresses are held",
            "delete pods, or give the node a larger subnet",
        ),
    ),
    warnings=("enable_network_policy: policies are not enforced by this version",),
    counts={"advertised": 252, "wired": 1},
    pools=({"subnet": "10.244.1.0/24", "size": 253, "held": 253, "cooling": 0, "reserved": 3, "free": 0},),
    quarantined=1,
    mesh={"mode": "none", "static_routes": ["10.244.2.0/24=192.0.2.2"]},
    pod_cidrs=("10.244.1.0/24",),
    pod_cidr_source={
        "node": "worker-1",
        "cidrs": ["10.244.1.0/24"],
        "source": "files",
        "looked_at": "/var/lib/kubelet/config.yaml: podCIDR",
        "guess": False,
        "cluster_cidrs": ["10.244.0.0/16"],
        "service_cidrs": ["10.96.0.0/16"],
        "warnings": [],
        "findings": [
            {
                "about": "node",
                "source": "files",
                "looked_at": "/var/lib/kubelet/config.yaml: podCIDR",
                "found": ["10.244.1.0/24"],
                "taken": True,
                "why": "the first that can be used",
                "code": 0,
                "cure": "",
            }
        ],
        "change": None,
    },
    kube={
        "mode": "auto",
        "node": "worker-1",
        "endpoint": "https://192.0.2.1:6443 (the kubelet's kubeconfig /etc/kubernetes/kubelet.conf)",
        "up_to_date": True,
        "since": BORN,
        "trouble": None,
        "tried": [{"way": "the kubelet's kubeconfig /etc/kubernetes/kubelet.conf", "trouble": None}],
        "condition": "True HeadCNIIsNotReady",
    },
)
