"""What the daemon's status means for its Node, and what a View may conclude from what it sees."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from cni.spec import Refusal
from reconciler.kube import objects
from reconciler.kube.codes import Trouble
from reconciler.kube.ports import Seen, What
from reconciler.kube.truth import mesh_line, truth_of
from reconciler.kube.view import View
from tests.kube import samples
from tests.pure.samples import STATUS

KEY = "nodekey:" + "ab" * 32
MESH = {
    "mode": "tailscale",
    "state": "Running",
    "member": True,
    "in_force": {samples.CIDR: True},
    "missing": {},
    "findings": [],
    "node_key": KEY,
    "addresses": ["100.64.0.3"],
}
NOT_APPROVED = {"code": 132, "what": "not approved", "cure": "approve it"}
READY = replace(STATUS, ready=True, not_ready=(), mesh=MESH)


def test_a_ready_node_in_a_mesh_in_force_has_nothing_to_wait_for():
    truth = truth_of(READY)
    assert (truth.not_ready, truth.not_yet, truth.mesh, truth.version) == ("", "", "in force", "0.1.0")
    assert truth.pod_cidrs == (ip_network(samples.CIDR),)
    assert truth.node_key == KEY
    assert truth.tailnet_addresses == (ip_address("100.64.0.3"),)


def test_why_it_is_not_ready_is_told_in_the_status_words():
    assert truth_of(STATUS).not_ready == STATUS.not_ready[0].what


@pytest.mark.parametrize(
    ("mesh", "line"),
    [
        ({"mode": "none", "static_routes": []}, "none"),
        ({"mode": "tailscale"}, None),
        (MESH, "in force"),
        ({**MESH, "in_force": {}}, "in force"),  # no pods, and each would be announced alone
        ({**MESH, "missing": {samples.CIDR: NOT_APPROVED}}, f"not in force: {samples.CIDR}: not approved"),
        ({**MESH, "member": False, "state": "NeedsLogin"}, "not in force: tailscaled is NeedsLogin"),
        ({**MESH, "member": False, "findings": [NOT_APPROVED]}, "not in force: not approved"),
    ],
)
def test_the_mesh_is_one_line_that_changes_only_when_something_does(mesh, line):
    assert mesh_line(mesh) == line
    assert mesh_line({**mesh, "seen": 17.5, "peers_online": 3}) == line


def test_until_the_mesh_was_looked_at_a_new_node_waits_and_an_old_one_keeps_its_name():
    truth = truth_of(replace(READY, mesh={"mode": "tailscale"}))
    assert truth.not_yet == "the mesh was not looked at yet"
    assert (truth.mesh, truth.node_key, truth.tailnet_addresses) == (None, None, None)


def test_a_node_outside_of_any_mesh_is_nobody_in_it():
    truth = truth_of(replace(READY, mesh={"mode": "none"}))
    assert (truth.not_yet, truth.node_key, truth.tailnet_addresses) == ("", "", ())


REFUSED = {"code": 126, "what": "the key is refused", "cure": "make a new one"}
OUTSIDE = {**MESH, "member": False, "state": "NeedsLogin", "findings": [REFUSED, NOT_APPROVED]}


@pytest.mark.parametrize("code", [121, 122, 124, 125, 126, 148])
def test_what_only_a_person_can_mend_is_not_waited_for_once_it_has_lasted(code):
    status = replace(READY, mesh={**OUTSIDE, "findings": [{**REFUSED, "code": code}]})
    assert not truth_of(status).for_a_person
    truth = truth_of(status, lasts=True)
    assert truth.for_a_person
    assert truth.not_yet == "the mesh is not in force: the key is refused"


@pytest.mark.parametrize(
    "mesh",
    [
        MESH,
        {"mode": "none"},
        {"mode": "tailscale"},
        {**OUTSIDE, "findings": []},  # joining
        {**OUTSIDE, "findings": [NOT_APPROVED, REFUSED]},  # the second may well follow from the first
        {**OUTSIDE, "member": True},  # a mesh that works, and something beside it
        *({**OUTSIDE, "findings": [{**REFUSED, "code": code}]} for code in (120, 123, 127, 128, 129, 138)),
    ],
)
def test_what_may_be_over_by_itself_is_waited_for_however_long_it_lasts(mesh):
    assert not truth_of(replace(READY, mesh=mesh), lasts=True).for_a_person


# --- the view

AWAY = Refusal(Trouble.API_UNREACHABLE, "no route", "")


def seen(what, *found):
    return Seen(what, found)


def a_node(name="worker-1"):
    return objects.node(samples.node(name))


def a_pod(*about, **more):
    return objects.pod(samples.pod(*about, **more))


def fresh():
    view = View("worker-1")
    view.take_node(seen(What.LISTED, a_node()))
    view.take_pods(seen(What.LISTED, a_pod("a"), a_pod("b")))
    return view


def names(pods):
    return sorted(pod.name for pod in pods)


def test_pods_come_and_go():
    view = fresh()
    assert view.trouble is None
    view.take_pods(seen(What.CHANGED, a_pod("c", phase="Succeeded")))
    view.take_pods(seen(What.DELETED, a_pod("a")))
    assert names(view.pods) == ["b", "c"]
    assert view.alive == {"uid-of-b"}
    view.take_pods(seen(What.LISTED))
    assert view.pods == ()


def test_nothing_is_concluded_while_it_is_not_up_to_date_and_nothing_is_forgotten():
    view = fresh()
    view.take_pods(AWAY)
    assert view.pods is None
    assert view.alive == frozenset()
    assert names(view.known_pods) == ["a", "b"]
    assert view.trouble == AWAY
    view.take_pods(seen(What.CHANGED))  # nothing has changed meanwhile
    assert names(view.pods) == ["a", "b"]
    assert view.trouble is None


def test_before_anything_was_read_nothing_is_known():
    view = View("worker-1")
    assert view.pods is None
    assert view.node is None
    assert view.trouble.code == Trouble.API_UNREACHABLE


def test_the_node_stays_known_while_the_api_is_away():
    view = fresh()
    view.take_node(AWAY)
    assert view.node.name == "worker-1"
    assert view.trouble == AWAY
    view.take_node(seen(What.CHANGED))
    assert view.trouble is None


@pytest.mark.parametrize("what", [What.LISTED, What.DELETED])
def test_a_node_that_kubernetes_does_not_have_is_named(what):
    view = fresh()
    view.take_node(seen(what, *([a_node()] if what is What.DELETED else [])))
    assert view.node is None
    assert view.trouble.code == Trouble.NODE_UNKNOWN
    assert "'worker-1'" in view.trouble.msg


def test_nobody_elses_node_is_taken_for_ours():
    """A server that does not know the selector."""
    view = View("worker-1")
    view.take_node(seen(What.LISTED, a_node("worker-2")))
    assert view.node is None
