"""Telling the Node's truth through an API that has changed meanwhile, refuses, or is turned back by others."""

import asyncio
from dataclasses import replace
from ipaddress import ip_network

import pytest

from cni.spec import Refusal
from fixtures.kube.fake_api import FakeApi
from reconciler.kube import objects
from reconciler.kube.codes import Trouble
from reconciler.kube.node import Aim, Truth
from reconciler.kube.patience import LATER, LONG
from reconciler.kube.ports import HttpRefusal
from reconciler.kube.teller import CALM, LONGEST_PAUSE, REPEAT, ROUNDS, Pauses, Teller
from tests.kube import samples

READY = Truth(pod_cidrs=(ip_network(samples.CIDR),), mesh="none", version="0.1.0", node_key="", tailnet_addresses=())
FORBIDDEN = Refusal(Trouble.API_FORBIDDEN, "may not", "grant it")


class Clock:
    def __init__(self):
        self.at = 0.0

    def wall(self):
        return 1767225600.0 + self.at

    def mono_ns(self):
        return int(self.at * 1e9)


class Site:
    def __init__(self, **node):
        self.api, self.clock = FakeApi(), Clock()
        self.node = objects.node(self.api.put(samples.NODE, samples.node(**node)))
        self.teller = Teller(self.clock, Pauses(lambda: 1.0))

    def tell(self, truth=READY):
        """As it is seen after it; the aims that went through."""
        told = asyncio.run(self.teller.tell(self.api, self.node, truth))
        self.node = told.node
        return [change.aim for change in told.done]

    @property
    def taints(self):
        return [each["key"] for each in self.api.objects[samples.NODE]["spec"]["taints"]]

    @property
    def status(self):
        conditions = self.api.objects[samples.NODE]["status"]["conditions"]
        return next((each["status"] for each in conditions if each["type"] == "NetworkUnavailable"), None)


def test_all_is_told_at_once_and_then_nothing():
    site = Site(taints=[samples.NOT_READY_TAINT, samples.OTHER_TAINT])
    assert site.tell() == [Aim.ANNOTATIONS, Aim.CONDITION, Aim.TAINT]
    assert site.status == "False"
    assert site.taints == [samples.OTHER_TAINT["key"]]
    site.clock.at += 100
    assert site.tell() == []
    assert len(site.api.calls) == 3


def test_a_taint_that_came_meanwhile_is_not_lost():
    """Somebody put one in front of ours after this node was read: its place is not ours any more."""
    site = Site(taints=[samples.NOT_READY_TAINT])
    site.api.put(samples.NODE, samples.node(taints=[samples.OTHER_TAINT, samples.NOT_READY_TAINT]))
    assert Aim.TAINT in site.tell()
    assert site.taints == [samples.OTHER_TAINT["key"]]
    assert site.teller.troubles == {}


def test_a_taint_that_another_one_removed_meanwhile_is_no_trouble():
    site = Site(taints=[samples.NOT_READY_TAINT])
    site.api.put(samples.NODE, samples.node(taints=[]))
    assert Aim.TAINT not in site.tell()
    assert site.taints == []
    assert site.teller.troubles == {}


def test_a_conflict_is_tried_again_with_what_is_read_fresh_and_not_for_ever():
    site = Site()
    refusing(site, *Aim, refusal=answer(409))
    assert site.tell() == []
    assert len(site.api.asked("get")) == ROUNDS - 1
    assert set(site.teller.troubles) == {Aim.ANNOTATIONS, Aim.CONDITION}


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_what_has_nothing_to_do_with_the_node_is_not_read_afresh_for(status):
    site = Site()
    refusing(site, *Aim, refusal=answer(status))
    site.tell()
    assert site.api.asked("get") == []


def test_a_server_that_wants_to_be_asked_later_is_not_asked_before():
    site = Site(taints=[samples.NOT_READY_TAINT])
    refusing(site, *Aim, refusal=answer(429, retry_after=30.0))
    site.tell()
    assert tries(site, 30) == 0
    assert tries(site, 1) == 1


@pytest.mark.parametrize("status", [403, 409, 500])
def test_the_taint_stays_while_the_condition_is_refused(status):
    """Also while it rests before it is tried again."""
    site = Site(taints=[samples.NOT_READY_TAINT])
    refusing(site, Aim.CONDITION, refusal=answer(status))
    tries(site, 60)
    assert site.taints == [samples.NOT_READY_TAINT["key"]]
    site.api.refuse = lambda verb, path: None
    tries(site, 5)
    assert (site.status, site.taints) == ("False", [])


def test_a_heartbeat_that_is_refused_holds_nothing_back():
    """What it would say again has been told."""
    site = Site()
    site.tell()
    refusing(site, Aim.CONDITION)
    site.clock.at += 301
    told = site.api.objects[samples.NODE]
    site.node = objects.node(site.api.put(samples.NODE, {**told, "spec": {"taints": [samples.NOT_READY_TAINT]}}))
    assert site.tell() == [Aim.TAINT]


def answer(status, retry_after=0.0):
    code = Trouble.API_FORBIDDEN if status == 403 else Trouble.API_ANSWER
    return HttpRefusal(code, str(status), "", status=status, retry_after=retry_after)


def refusing(site, *aims, refusal=FORBIDDEN):
    paths = {Aim.CONDITION: samples.NODE + "/status"}

    def refuse(verb, path):
        hit = verb == "patch" and any(paths.get(aim, samples.NODE) == path for aim in aims)
        return refusal if hit else None

    site.api.refuse = refuse


def tries(site, seconds, step=0.5):
    """How often the API was asked to change something in that time."""
    before = len(site.api.asked("patch"))
    for _ in range(int(seconds / step)):
        site.clock.at += step
        site.tell()
    return len(site.api.asked("patch")) - before


@pytest.mark.parametrize("aim", [Aim.CONDITION, Aim.ANNOTATIONS])
def test_what_is_refused_is_tried_again_ever_more_seldom(aim):
    site = Site()
    refusing(site, aim)
    site.tell()
    assert site.teller.troubles == {aim: FORBIDDEN}
    tries(site, 100)
    longest = LONGEST_PAUSE[aim]
    assert 300 / longest - 1 <= tries(site, 300) <= 300 / longest + 3  # and a heartbeat or two of the other


def test_what_is_refused_for_long_is_right_half_a_minute_after_the_permission():
    site = Site()
    refusing(site, Aim.CONDITION)
    tries(site, LONG + 60)
    assert tries(site, 300) <= 300 / LATER[0]
    site.api.refuse = lambda verb, path: None
    tries(site, LATER[1])
    assert site.status == "False"


def test_the_condition_is_right_within_five_seconds_of_the_permission():
    site = Site()
    refusing(site, Aim.CONDITION, Aim.ANNOTATIONS)
    site.tell()
    tries(site, 300)
    assert site.status is None
    site.api.refuse = lambda verb, path: None
    tries(site, 5)
    assert site.status == "False"
    assert "headcni.io/version" in site.node.annotations  # what waited longer is tried as soon as anything works
    assert site.teller.troubles == {}


def test_whoever_turns_it_back_is_answered_but_not_in_a_fight_without_end():
    site = Site()
    site.tell()
    before = len(site.api.asked("patch"))
    for _ in range(60):
        site.clock.at += 0.5
        site.node = objects.node(site.api.put(samples.NODE, samples.node()))  # all of ours is gone again
        site.tell()
    writes = len(site.api.asked("patch")) - before
    assert 30 / REPEAT - 1 <= writes / 2 <= 30 / REPEAT + 1


def broken(why="broken"):
    return replace(READY, not_ready=why)


def test_a_failure_is_told_at_once_and_its_end_when_it_has_held():
    site = Site()
    site.tell()
    assert site.tell(broken()) == [Aim.CONDITION]
    assert site.status == "True"
    assert site.tell() == []
    site.clock.at += CALM
    assert site.tell() == [Aim.CONDITION]
    assert site.status == "False"


def test_a_node_that_fails_each_other_second_fails():
    site = Site()
    site.tell()
    before = len(site.api.asked("patch"))
    for _ in range(10):
        for truth in (broken("pool 10.244.1.0/24 is empty"), READY):
            site.clock.at += 1
            site.tell(truth)
            assert site.status == "True"
    assert len(site.api.asked("patch")) - before == 1
    tries(site, CALM)
    assert site.status == "False"


@pytest.mark.parametrize("up_before", [True, False])
def test_the_first_time_it_is_told_without_delay(up_before):
    """A start, a restart or an upgrade goes through a moment in which the node is not ready."""
    site = Site(taints=[samples.NOT_READY_TAINT])
    if up_before:
        site.tell()
        site.teller = Teller(site.clock, Pauses(lambda: 1.0))
    site.tell(broken("starting"))
    assert site.status == "True"
    site.tell()
    assert (site.status, site.taints) == ("False", [])


def test_a_reason_that_changes_all_the_time_is_not_written_all_the_time():
    site = Site()
    site.tell()
    before = len(site.api.asked("patch"))
    for number in range(30):
        site.clock.at += 1
        site.tell(broken(f"{number} pods wait"))
    assert len(site.api.asked("patch")) - before <= 30 / REPEAT + 1


def test_with_a_kubelets_credentials_the_taint_stays_and_the_cure_is_named():
    site = Site(taints=[samples.NOT_READY_TAINT])
    restricted = Refusal(Trouble.API_FORBIDDEN, 'node "worker-1" is not allowed to modify taints', "grant it")
    site.api.refuse = lambda verb, path: restricted if verb == "patch" and tainted(site) else None
    assert site.tell() == [Aim.ANNOTATIONS, Aim.CONDITION]
    assert site.status == "False"
    trouble = site.teller.troubles[Aim.TAINT]
    assert trouble.code == Trouble.API_FORBIDDEN
    assert "NodeRestriction" in trouble.details
    assert trouble.details.endswith("kubectl taint node worker-1 headcni.io/not-ready-")


def tainted(site):
    """Whether the patch in hand is that of the taint."""
    return isinstance(site.api.calls[-1][2], list)


def test_a_trouble_that_is_not_wished_any_more_is_none():
    site = Site(taints=[samples.NOT_READY_TAINT])
    site.api.refuse = lambda verb, path: FORBIDDEN if verb == "patch" and tainted(site) else None
    site.tell()
    site.node = objects.node(site.api.put(samples.NODE, {**site.api.objects[samples.NODE], "spec": {"taints": []}}))
    site.tell()
    assert site.teller.troubles == {}
