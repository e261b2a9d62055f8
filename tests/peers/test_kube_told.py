"""A real kube-apiserver takes what is told as the fake and the stand-in do, with the rights of the list and no others.

And what only a real one has: NodeRestriction, which keeps a kubelet's credentials to its own Node, and off its taints.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from cni.spec import Refusal
from fixtures.kube.server import RBAC, KubeServer, of
from reconciler.kube import objects
from reconciler.kube.codes import Trouble
from reconciler.kube.node import NODE_KEY, Aim, path_of
from reconciler.kube.ports import Patch
from reconciler.kube.rbac import Role, check, manifests
from tests.kube.clients import connected
from tests.kube.contract_telling import CHECKS, CIDR, OURS, TRUTH, teller

PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "namespaces/default/roles",
    "RoleBinding": "namespaces/default/rolebindings",
}


class Real:
    def __init__(self, server, daemon, approver):
        self.server, self.daemon, self.approver = server, daemon, approver

    async def add_node(self, name, spec):
        self.server.call("POST", "/api/v1/nodes", {"metadata": {"name": name}, "spec": spec})

    async def taint(self, name, taints):
        kind = "application/merge-patch+json"
        self.server.call("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": taints}}, kind)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with KubeServer(tmp_path_factory.mktemp("telling")) as server:
        for role in Role:
            for made in manifests(role, "default"):
                server.call("POST", f"{RBAC}/{PLURALS[made['kind']]}", made)
        for account in ("headcni", "headcni-approver"):
            server.wait_may(f"system:serviceaccount:default:{account}", "list", "nodes")
        yield server


@asynccontextmanager
async def client(server, name, user):
    made = await connected(server.kubeconfig(name, user))
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("contract", CHECKS, ids=lambda each: each.__name__)
def test_the_real_one(contract, server):
    async def run():
        async with (
            client(server, "daemon", {"token": server.token("headcni")}) as daemon,
            client(server, "approver", {"token": server.token("headcni-approver")}) as approver,
        ):
            await contract(Real(server, daemon, approver))

    asyncio.run(run())


def as_kubelet(server, name, body):
    """`body(api, node)` with the credentials of that node's kubelet."""
    kubelet = of(server.user(f"system:node:{name}", groups=["system:nodes"]))

    async def run():
        async with client(server, f"{name}.conf", kubelet) as api:
            raw = await api.get(path_of(name))
            await body(api, objects.node(raw) if not isinstance(raw, Refusal) else None)

    asyncio.run(run())


def test_a_kubelets_credentials_tell_all_but_the_taint_and_the_cure_is_named(server):
    server.call("POST", "/api/v1/nodes", {"metadata": {"name": "kubelet-1"}, "spec": {"taints": [OURS]}})

    async def body(api, node):
        sender = teller()
        told = await sender.tell(api, node, TRUTH)
        assert [change.aim for change in told.done] == [Aim.ANNOTATIONS, Aim.CONDITION]
        trouble = sender.troubles[Aim.TAINT]
        assert trouble.code == Trouble.API_FORBIDDEN
        assert "is not allowed to modify taints" in trouble.msg
        assert "kubectl taint node kubelet-1 headcni.io/not-ready-" in trouble.details
        assert await check(api, Role.DAEMON, "kubelet-1") == []  # which no review shows

    as_kubelet(server, "kubelet-1", body)


def test_a_kubelets_credentials_cannot_say_who_another_node_is(server):
    """On this rests the approver's list (`reconciler/kube/members.py`)."""
    for name in ("kubelet-2", "victim"):
        server.call("POST", "/api/v1/nodes", {"metadata": {"name": name}, "spec": {}})

    async def body(api, node):
        mine = {"metadata": {"annotations": {NODE_KEY: "nodekey:" + "cd" * 32}}}
        refused = await api.patch(path_of("victim"), mine, Patch.MERGE)
        assert isinstance(refused, Refusal)
        assert refused.code == Trouble.API_FORBIDDEN
        assert not isinstance(await api.patch(path_of("kubelet-2"), mine, Patch.MERGE), Refusal)

    as_kubelet(server, "kubelet-2", body)


def test_a_kubelets_credentials_give_a_node_a_pod_cidr_once_and_never_another(server):
    server.call("POST", "/api/v1/nodes", {"metadata": {"name": "kubelet-3"}, "spec": {}})

    async def body(api, node):
        first = await api.patch(path_of("kubelet-3"), {"spec": {"podCIDR": CIDR, "podCIDRs": [CIDR]}}, Patch.MERGE)
        assert not isinstance(first, Refusal), first
        other = {"spec": {"podCIDR": "10.244.8.0/24", "podCIDRs": ["10.244.8.0/24"]}}
        assert isinstance(await api.patch(path_of("kubelet-3"), other, Patch.MERGE), Refusal)

    as_kubelet(server, "kubelet-3", body)


def test_a_shared_account_can_say_who_another_node_is(server):
    """As the docstring of `reconciler/kube/members.py` warns; a policy of the API server is the cure."""
    server.call("POST", "/api/v1/nodes", {"metadata": {"name": "other"}, "spec": {}})

    async def run():
        async with client(server, "shared", {"token": server.token("headcni")}) as api:
            mine = {"metadata": {"annotations": {NODE_KEY: "nodekey:" + "cd" * 32}}}
            assert not isinstance(await api.patch(path_of("other"), mine, Patch.MERGE), Refusal)

    asyncio.run(run())
