"""Events: once per cause and hour, in the form that kubectl shows, and never in the way of anything."""

import asyncio
from dataclasses import replace

import pytest

from cni.spec import Refusal
from fixtures.kube.fake_api import FakeApi
from reconciler.kube import objects
from reconciler.kube.codes import Trouble
from reconciler.kube.events import (
    HOUR,
    MOST,
    Limiter,
    Notice,
    Subject,
    body_of,
    of_mesh,
    of_pod,
    of_records,
    path_of,
    troubles_of,
)
from reconciler.kube.herald import AT_ONCE, Herald
from reconciler.kube.patience import FIRST
from reconciler.kube.ports import HttpRefusal
from statemachine.attachment import State
from tests.kube import samples
from tests.pure.samples import in_state, stuck

NODE = objects.node(samples.node())
ABOUT_NODE = Subject("Node", "", "worker-1", "uid-of-worker-1")
NOTICE = Notice(ABOUT_NODE, "HeadCNIIsNotReady", "pool full", "pods cannot be served: pool full")
WALL = 1767225600.0 + 60


class Clock:
    """Stands until it is told to go on."""

    def __init__(self):
        self.at = 0.0

    def wall(self):
        return WALL + self.at

    def mono_ns(self):
        return int(self.at * 1e9)


# --- the limiter


def test_each_is_said_once_an_hour():
    limiter = Limiter()
    assert limiter.due(NOTICE, 0.0)
    limiter.said(NOTICE, 0.0)
    assert not limiter.due(NOTICE, HOUR - 1)
    assert limiter.due(NOTICE, HOUR)


@pytest.mark.parametrize(
    "other",
    [
        replace(NOTICE, cause="pool empty"),
        replace(NOTICE, reason="HeadCNIStuck"),
        replace(NOTICE, subject=replace(ABOUT_NODE, uid="another")),
    ],
    ids=["another cause", "another reason", "another object"],
)
def test_what_differs_is_said_as_well(other):
    limiter = Limiter()
    limiter.said(NOTICE, 0.0)
    assert limiter.due(other, 0.0)


def test_another_message_of_the_same_cause_is_not_said():
    limiter = Limiter()
    limiter.said(NOTICE, 0.0)
    assert not limiter.due(replace(NOTICE, message="for 7 seconds"), 0.0)


def test_what_is_remembered_has_a_bound():
    limiter = Limiter()
    for number in range(MOST + 50):
        limiter.said(replace(NOTICE, cause=str(number)), 0.0)
    assert limiter.due(replace(NOTICE, cause="0"), 1.0)
    assert not limiter.due(replace(NOTICE, cause=str(MOST + 49)), 1.0)


# --- the form


def test_an_event_of_a_node_is_in_the_default_namespace():
    body = body_of(NOTICE, "worker-1", WALL)
    assert path_of(NOTICE) == "/api/v1/namespaces/default/events"
    assert body["metadata"]["namespace"] == "default"
    assert body["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "worker-1",
        "uid": "uid-of-worker-1",
    }
    assert (body["type"], body["reason"], body["message"]) == ("Warning", NOTICE.reason, NOTICE.message)
    assert body["firstTimestamp"] == body["lastTimestamp"] == "2026-01-01T00:01:00Z"


def test_an_event_of_a_pod_is_in_its_namespace():
    notice = replace(NOTICE, subject=of_pod(objects.pod(samples.pod("web-0", namespace="shop"))), warning=False)
    body = body_of(notice, "worker-1", WALL)
    assert path_of(notice) == "/api/v1/namespaces/shop/events"
    assert body["metadata"]["namespace"] == body["involvedObject"]["namespace"] == "shop"
    assert body["type"] == "Normal"


def test_a_restarted_daemon_says_the_same_under_the_same_name():
    def name(notice, at):
        return body_of(notice, "worker-1", at)["metadata"]["name"]

    assert name(NOTICE, WALL) == name(replace(NOTICE, message="in other words"), WALL + 60)
    assert name(NOTICE, WALL) != name(NOTICE, WALL + HOUR)
    assert name(NOTICE, WALL) != name(replace(NOTICE, cause="another"), WALL)


def test_names_and_messages_are_not_longer_than_an_api_server_takes():
    body = body_of(replace(NOTICE, subject=replace(ABOUT_NODE, name="n" * 253), message="m" * 9000), "h", WALL)
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["message"]) <= 1024


# --- what is worth one


def lasts(cause):
    return True


def test_a_prefix_that_is_not_in_force_is_and_what_cannot_be_told_yet_is_not():
    missing = {
        samples.CIDR: {"code": 132, "what": "not approved", "cure": "approve it"},
        "fd00::/64": {"code": 0, "what": "it cannot be told yet", "cure": "wait"},
    }
    (notice,) = of_mesh(NODE, {"mode": "tailscale", "member": True, "missing": missing}, lasts)
    assert notice.subject == ABOUT_NODE
    assert notice.message == f"{samples.CIDR} is not in force in the mesh: not approved; approve it"
    assert list(of_mesh(NODE, {"mode": "none"}, lasts)) == []


def test_of_a_node_that_is_no_member_the_cause_is_told_and_not_what_follows():
    missing = {samples.CIDR: {"code": 131, "what": "not announced", "cure": "the daemon adds it"}}
    refused = {"code": 126, "what": "the key is refused", "cure": "make a new one"}
    outside = {"mode": "tailscale", "member": False, "missing": missing, "findings": [refused]}
    (notice,) = of_mesh(NODE, outside, lasts)
    assert notice.message == "this node is not in force in the mesh: the key is refused; make a new one"
    assert list(of_mesh(NODE, {**outside, "missing": {}}, lasts)) == []


def test_of_several_troubles_of_the_mesh_only_those_that_last_are():
    not_approved = {"code": 132, "what": "not approved", "cure": "approve it"}
    mesh = {"mode": "tailscale", "member": True, "missing": dict.fromkeys((samples.CIDR, "fd00::/64"), not_approved)}
    assert troubles_of(mesh).keys() == {f"{samples.CIDR} 132", "fd00::/64 132"}
    (notice,) = of_mesh(NODE, mesh, lambda cause: cause == "fd00::/64 132")
    assert notice.message.startswith("fd00::/64 is not in force")


def test_a_pod_that_is_stuck_for_long_is():
    record = stuck()  # three attempts to advertise
    pod = objects.pod(samples.pod("web-0", uid=record.pod.uid))
    (notice,) = of_records([record], [pod], [])
    assert notice.subject == of_pod(pod)
    assert "advertise failed 3 times: RTM_NEWROUTE was refused" in notice.message


def test_what_has_no_cure_ends_with_its_cause():
    """Other plugins often say no more."""
    record = stuck()
    record = replace(record, problem=replace(record.problem, msg="not today", details=""))
    (notice,) = of_records([record], [objects.pod(samples.pod("web-0", uid=record.pod.uid))], [])
    assert notice.message == "advertise failed 3 times: not today"


def test_what_is_short_or_unknown_or_told_of_the_node_already_is_not():
    record = stuck()
    pod = objects.pod(samples.pod("web-0", uid=record.pod.uid))
    lately = replace(record, problem=replace(record.problem, attempt=2))
    assert list(of_records([lately, in_state(State.ADVERTISED)], [pod], [])) == []
    assert list(of_records([record], [], [])) == []
    assert list(of_records([record], [pod], [record.problem.code])) == []


# --- sending


def heralded(*turns, refuse=None):
    """What the API was asked to make; each turn: a list of notices. And what was warned of."""
    api, clock, warned = FakeApi(), Clock(), []
    herald = Herald(clock, "worker-1", lambda key, text: warned.append(key))

    async def body():
        for turn in turns:
            if callable(turn):
                turn(api, clock)
            else:
                await herald.tell(api, turn)

    api.refuse = lambda verb, path: refuse
    asyncio.run(body())
    return [each["reason"] + each["message"][-1] for _, _, each in api.calls], warned


def notices(*numbers):
    return [replace(NOTICE, cause=str(number), message=f"m{number}") for number in numbers]


def test_what_lasts_is_sent_once():
    sent, warned = heralded(notices(1), notices(1), notices(1, 2))
    assert sent == ["HeadCNIIsNotReady1", "HeadCNIIsNotReady2"]
    assert warned == []


def test_a_few_are_sent_at_a_time_and_the_rest_later():
    sent, _ = heralded(notices(*range(AT_ONCE + 2)), lambda api, clock: None, notices(*range(AT_ONCE + 2)))
    assert len(sent) == AT_ONCE + 2
    assert len(set(sent)) == AT_ONCE + 2


def test_what_was_not_permitted_is_warned_of_and_tried_with_the_next_hour():
    def later(api, clock):
        clock.at += HOUR

    forbidden = Refusal(Trouble.API_FORBIDDEN, "may not create events", "grant it")
    sent, warned = heralded(notices(1), notices(1), later, notices(1), refuse=forbidden)
    assert sent == ["HeadCNIIsNotReady1"] * 2
    assert warned == ["kube events"] * 2  # of which `Once` logs one


def answered(status, code=Trouble.API_ANSWER, retry_after=0.0):
    return HttpRefusal(code, str(status), "", status=status, retry_after=retry_after)


NOT_NOW = (
    *(answered(status) for status in (200, 302, 429, 500, 503, 504)),
    answered(401, Trouble.API_CREDENTIALS),
    Refusal(Trouble.API_UNREACHABLE, "no route", ""),
)


@pytest.mark.parametrize("refusal", NOT_NOW, ids=lambda each: each.msg)
def test_what_the_api_could_not_take_is_said_again_after_a_rest(refusal):
    def later(api, clock):
        clock.at += FIRST

    def back(api, clock):
        api.refuse = lambda verb, path: None

    sent, warned = heralded(notices(1, 2), back, notices(1, 2), later, notices(1, 2), refuse=refusal)
    assert sent == [f"HeadCNIIsNotReady{each}" for each in (1, 1, 2)]
    assert warned == []


def test_a_server_that_wants_to_be_asked_later_is_not_asked_before():
    def soon(api, clock):
        clock.at += 19

    turns = [notices(1), *[soon, notices(1)] * 2]
    sent, _ = heralded(*turns, refuse=answered(429, retry_after=20.0))
    assert len(sent) == 2


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_what_exists_already_or_will_never_be_taken_counts_as_said(status):
    def later(api, clock):
        clock.at += HOUR - 1

    sent, warned = heralded(notices(1), later, notices(1), refuse=answered(status))
    assert len(sent) == 1
    assert warned == []
