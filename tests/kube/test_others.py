"""Whose pods are where, by the Node objects: what is kept of a page, when there is a look, and what comes of it."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network as net

import pytest

from cni.spec import Refusal
from reconciler.kube import objects, others
from reconciler.kube.codes import Trouble
from reconciler.kube.others import AGAIN, AT_ONCE, EVERY, LATER, STARTS, Gathering, Schedule, Wanted, vouched_for
from reconciler.kube.ports import HttpRefusal
from reconciler.node.clash import Others
from tests.kube import samples

FORGOTTEN = HttpRefusal(Trouble.API_ANSWER, "410", "list anew", status=410)
FORBIDDEN = HttpRefusal(Trouble.API_FORBIDDEN, "403", "grant it", status=403)
TWO, THREE = (net(f"10.244.{number}.0/24") for number in (2, 3))


def page(*nodes, following=""):
    return {"metadata": {"resourceVersion": "7", "continue": following}, "items": list(nodes)}


def node(name, *cidrs, says=""):
    annotations = {"headcni.io/pod-cidr": says} if says else {}
    raw = samples.node(name, cidrs=list(cidrs), annotations=annotations)
    raw["spec"].pop("podCIDR")
    return raw


def gathered(*nodes) -> Others:
    gathering = Gathering("worker-1")
    assert gathering.add(page(*nodes)) == ""
    return gathering.found


# --- what is kept


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (node("two", "10.244.2.0/24"), {TWO: "two"}),
        (node("two", "10.244.2.0/24", "fd00:2::/64"), {TWO: "two", net("fd00:2::/64"): "two"}),
        (node("two"), {}),
        (node("two", says="10.244.2.0/24"), {TWO: "two"}),
        (node("two", "10.244.2.0/24", says="10.244.3.0/24"), {TWO: "two", THREE: "two"}),  # it was configured
        (node("two", "10.244.2.0/24", says="10.244.2.0/24"), {TWO: "two"}),
        (node("two", "10.244.2.7/24", says="nonsense,10.244.3.0/24"), {THREE: "two"}),
        (node("two", says=",".join(f"10.{number}.0.0/24" for number in range(99))), 4),
        (node("worker-1", "10.244.2.0/24"), {}),
        ({"metadata": {"name": "two"}, "spec": {"podCIDR": "10.244.2.0/24"}}, {TWO: "two"}),
        ({"metadata": {"name": "two"}, "spec": "none"}, {}),
    ],
)
def test_what_is_kept_of_a_node(raw, kept):
    found = gathered(raw)
    assert found.nodes == 1
    assert found.networks == kept if isinstance(kept, dict) else len(found.networks) == kept


def test_of_two_with_the_same_the_first_is_kept_and_both_are_counted():
    assert gathered(node("three", "10.244.2.0/24"), node("two", "10.244.2.0/24")) == Others(2, {TWO: "three"})


def test_what_has_no_name_is_no_node():
    assert gathered({"spec": {"podCIDR": "10.244.2.0/24"}}, "x", node("two")).nodes == 1


@pytest.mark.parametrize("answer", [{}, {"metadata": {}, "items": {}}, {"metadata": [], "items": []}])
def test_what_is_no_page(answer):
    assert Gathering("worker-1").add(answer) is None


def test_an_empty_list_is_one():
    assert gathered() == Others()
    assert Gathering("worker-1").add({"metadata": {}, "items": None}) == ""


# --- page by page


class Pages:
    endpoint = "fake"

    def __init__(self, *answers, for_ever=None):
        self.answers, self.for_ever = list(answers), for_ever
        self.asked = []

    async def get(self, path, query):
        assert path == "/api/v1/nodes"
        self.asked.append(query.get("continue", ""))
        assert query["limit"] == str(others.PAGE)
        return self.answers.pop(0) if self.answers else self.for_ever


def read(pages):
    return asyncio.run(others.read(pages, "worker-1"))


def test_all_pages_are_read():
    pages = Pages(page(node("two", "10.244.2.0/24"), following="x"), page(node("worker-1", "10.244.1.0/24")))
    assert read(pages) == Others(2, {TWO: "two"})
    assert pages.asked == ["", "x"]


def test_a_list_that_was_forgotten_begins_anew_without_what_came_before():
    gone = page(node("gone", "10.244.9.0/24"), following="x")
    pages = Pages(gone, FORGOTTEN, page(node("two", "10.244.2.0/24"), following="y"), page(node("three")))
    assert read(pages) == Others(2, {TWO: "two"})
    assert pages.asked == ["", "x", "", "y"]


def test_one_that_is_always_forgotten_is_given_up():
    pages = Pages(for_ever=FORGOTTEN)
    assert read(pages) is FORGOTTEN
    assert len(pages.asked) == STARTS


def test_any_other_refusal_is_handed_on_at_once():
    pages = Pages(page(node("two"), following="x"), FORBIDDEN)
    assert read(pages) is FORBIDDEN
    assert pages.asked == ["", "x"]


def test_an_answer_that_is_no_list_is_refused():
    found = read(Pages({"kind": "Status"}))
    assert isinstance(found, Refusal)
    assert (found.code, found.msg) == (Trouble.API_ANSWER, "fake: the answer is no list of Nodes")


def test_a_list_without_end_has_one(monkeypatch):
    monkeypatch.setattr(others, "MOST", 3 * others.PAGE)
    pages = Pages(for_ever=page(node("two", "10.244.2.0/24"), following="x"))
    assert read(pages) == Others(3, {TWO: "two"})


# --- when


@pytest.mark.parametrize(
    ("own", "given", "vouched"),
    [
        (["10.244.1.0/24"], ["10.244.1.0/24"], True),
        (["10.244.1.0/25"], ["10.244.1.0/24"], True),
        (["10.244.2.0/24"], ["10.244.1.0/24"], False),
        (["10.244.0.0/16"], ["10.244.1.0/24"], False),
        (["10.244.1.0/24"], [], False),
        (["10.244.1.0/24", "fd00::/64"], ["10.244.1.0/24"], False),
        (["fd00::/64"], ["10.244.1.0/24"], False),
        ([], [], True),  # nothing, which clashes with nobody
    ],
)
def test_who_vouches_for_a_cidr(own, given, vouched):
    assert vouched_for(objects.networks(own), objects.node(node("worker-1", *given))) is vouched


def wanted(since=0.0, first=LATER):
    return Wanted("way", since, first, EVERY)


@pytest.mark.parametrize(("draw", "at"), [(0.0, 5.0), (0.5, 62.5), (1.0, 120.0)])
def test_the_first_look_is_drawn(draw, at):
    schedule = Schedule(lambda: draw)
    assert not schedule.due(wanted(), 100.0)
    assert not schedule.due(wanted(), 100.0 + at - 0.1)
    assert schedule.due(wanted(), 100.0 + at)


def test_a_guess_is_looked_at_at_once():
    schedule = Schedule(lambda: 1.0)
    assert not schedule.due(wanted(first=AT_ONCE), 0.0)
    assert schedule.due(wanted(first=AT_ONCE), 2.0)


@pytest.mark.parametrize(("draw", "share"), [(0.0, 0.8), (1.0, 1.2)])
@pytest.mark.parametrize(("failed", "pause"), [(False, EVERY), (True, AGAIN)])
def test_then_now_and_then(draw, share, failed, pause):
    schedule = Schedule(lambda: draw)
    schedule.due(wanted(), 0.0)
    schedule.looked(1000.0, failed)
    assert not schedule.due(wanted(), 1000.0 + share * pause - 1)
    assert schedule.due(wanted(), 1000.0 + share * pause + 1)


def test_never_while_nobody_wants_it_and_not_twice_for_a_connection_that_comes_and_goes():
    schedule = Schedule(lambda: 0.0)
    schedule.due(wanted(), 0.0)
    schedule.looked(10.0, failed=False)
    assert not schedule.due(None, 10_000.0)
    schedule.looked(10_000.0, failed=False)
    for since in (1.0, 2.0, 3.0):
        assert not schedule.due(None, 10_000.0 + since)
        assert not schedule.due(wanted(since), 10_000.0 + since)
    assert not schedule.due(wanted(3.0), 10_000.0 + AGAIN - 1)
    assert schedule.due(wanted(3.0), 10_000.0 + AGAIN)
