"""The approver's list from Nodes: who says who it is, and what holds while the API is away."""

import asyncio
from ipaddress import ip_network

import pytest

from cni.spec import Refusal
from fixtures.kube.fake_api import FakeApi
from reconciler.kube.codes import Trouble
from reconciler.kube.members import NodeList, identity_of, members_of
from reconciler.kube.objects import node
from reconciler.kube.ports import Seen, What
from reconciler.mesh.approve import Identity, Mark, Member, decide
from reconciler.mesh.model import ControlNode
from tests.kube import samples

KEY, OTHER_KEY = "nodekey:" + "ab" * 32, "nodekey:" + "cd" * 32
CIDR = ip_network(samples.CIDR)


def annotated(name, cidr=samples.CIDR, **marks):
    names = {"key": "headcni.io/tailnet-node-key", "address": "headcni.io/tailnet-address"}
    annotations = {names[mark]: value for mark, value in marks.items()}
    return samples.node(name, cidrs=[cidr] if cidr else [], annotations=annotations)


def seen(what, *raw):
    return Seen(what, tuple(map(node, raw)))


def listed(*raw):
    return seen(What.LISTED, *raw)


@pytest.mark.parametrize(
    ("marks", "identity"),
    [
        ({"key": KEY}, Identity(Mark.NODE_KEY, KEY)),
        ({"key": KEY, "address": "100.64.0.3"}, Identity(Mark.NODE_KEY, KEY)),
        ({"address": "100.64.0.3,fd7a::3"}, Identity(Mark.ADDRESS, "100.64.0.3")),
        ({"address": "FD7A:0::3"}, Identity(Mark.ADDRESS, "fd7a::3")),
        ({"key": "worker-1", "address": "100.64.0.3"}, Identity(Mark.ADDRESS, "100.64.0.3")),
        ({"key": "nodekey:ab", "address": "worker-1"}, None),
        ({}, None),
    ],
)
def test_a_node_is_known_by_its_key_or_else_by_its_address_and_never_by_a_name(marks, identity):
    assert identity_of(node(annotated("worker-1", **marks))) == identity


def test_the_pod_cidr_is_what_the_cluster_gave_never_what_the_node_says():
    raw = annotated("worker-1", cidr="", key=KEY)
    raw["spec"].pop("podCIDR")
    raw["metadata"]["annotations"]["headcni.io/pod-cidr"] = "10.244.9.0/24"
    assert members_of([node(raw)]) == ((Member("worker-1", (), Identity(Mark.NODE_KEY, KEY)),), [])


def test_who_says_nothing_is_named():
    nodes = NodeList()
    nodes.take(listed(annotated("worker-1", key=KEY), *[annotated(f"w{each}") for each in range(7)]))
    reading = nodes.read()
    assert [each.name for each in reading.members] == ["worker-1"]
    assert reading.problem.msg == ("nodes that do not say who they are in the tailnet: w0, w1, w2, w3, w4 and 2 more")


def test_before_the_first_list_there_is_only_a_refusal():
    nodes = NodeList()
    assert isinstance(nodes.read(), Refusal)
    away = Refusal(Trouble.API_TLS_NAME, "wrong name", "cure")
    nodes.take(away)
    assert nodes.read() == away


def test_the_list_follows_the_nodes():
    nodes = NodeList()
    nodes.take(listed(annotated("a", key=KEY), annotated("b", key=OTHER_KEY)))
    nodes.take(seen(What.CHANGED, annotated("a", cidr="10.244.7.0/24", key=KEY)))
    nodes.take(seen(What.DELETED, annotated("b", key=OTHER_KEY)))
    nodes.take(seen(What.CHANGED, annotated("c", cidr="10.244.8.0/24", key=OTHER_KEY)))
    assert {each.name: str(each.pod_cidrs[0]) for each in nodes.read().members} == {
        "a": "10.244.7.0/24",
        "c": "10.244.8.0/24",
    }
    nodes.take(listed())
    assert nodes.read().members == ()


def test_while_the_api_is_away_the_last_list_stays_in_use_and_that_is_said():
    nodes = NodeList()
    nodes.take(listed(annotated("a", key=KEY)))
    nodes.take(Refusal(Trouble.API_UNREACHABLE, "no route to 192.0.2.1", "see the network"))
    reading = nodes.read()
    assert [each.name for each in reading.members] == ["a"]
    assert reading.problem.msg == "no route to 192.0.2.1; the list of nodes from before stays in use"
    nodes.take(listed(annotated("a", key=KEY)))
    assert nodes.read().problem is None


def test_it_is_followed_through_the_api():
    async def body():
        api, nodes = FakeApi(), NodeList()
        api.put("/api/v1/nodes/a", annotated("a", key=KEY))

        class Finder:
            async def api(self):
                return api

        following = asyncio.create_task(nodes.follow(Finder()))
        await nodes.heard()
        assert [each.name for each in nodes.read().members] == ["a"]
        api.put("/api/v1/nodes/b", annotated("b", cidr="10.244.2.0/24", key=OTHER_KEY))
        await api.heard()
        assert [each.name for each in nodes.read().members] == ["a", "b"]
        following.cancel()
        await asyncio.wait({following})

    asyncio.run(body())


# --- what who has a node's credentials can do; the docstring of the module says it in prose


def control(number, key, announces):
    announced = frozenset(map(ip_network, announces))
    return ControlNode(str(number), f"n{number}", key, announced=announced)


def decided(nodes, control_nodes):
    members, _ = members_of([node(each) for each in nodes])
    return decide([ip_network("10.244.0.0/16")], members, control_nodes)


def test_a_node_can_send_its_own_pods_elsewhere_and_nobody_elses():
    found = decided(
        [annotated("a", cidr="10.244.1.0/24", key=OTHER_KEY), annotated("b", cidr="10.244.2.0/24", key=KEY)],
        [control(1, OTHER_KEY, ["10.244.1.0/24", "10.244.2.0/24"]), control(2, KEY, ["10.244.2.0/24"])],
    )
    assert [(each.member.name, set(map(str, each.approves))) for each in found.todo] == [
        ("a", {"10.244.1.0/24"}),
        ("b", {"10.244.2.0/24"}),
    ]
    assert any(each.trouble.msg.startswith("a (node 1) announces 10.244.2.0/24") for each in found.problems)


def test_a_node_that_takes_anothers_key_stops_both_and_steals_nothing():
    found = decided(
        [annotated("a", cidr="10.244.1.0/24", key=KEY), annotated("b", cidr="10.244.2.0/24", key=KEY)],
        [control(2, KEY, ["10.244.1.0/24", "10.244.2.0/24"])],
    )
    assert found.todo == ()
    assert {each.key for each in found.problems} >= {"node a", "node b"}


def test_a_node_that_gives_itself_anothers_cidr_gets_nothing_of_it():
    found = decided(
        [annotated("a", cidr="10.244.0.0/16", key=OTHER_KEY), annotated("b", cidr="10.244.2.0/24", key=KEY)],
        [control(1, OTHER_KEY, ["10.244.0.0/16"]), control(2, KEY, ["10.244.2.0/24"])],
    )
    assert found.todo == ()
