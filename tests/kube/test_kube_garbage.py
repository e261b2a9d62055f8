"""Garbage: two signs, none against, for the grace time. A live pod is never collected, whatever one of them says."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.kube import objects
from reconciler.kube.garbage import (
    FRESH,
    GRACE,
    MARGIN,
    RuntimeList,
    Signs,
    Suspicion,
    api_sign,
    collectable,
    runtime_sign,
    sighted,
)
from statemachine.attachment import Pod, State
from tests.kube import samples
from tests.pure.samples import in_state

RECORD = in_state(State.ADVERTISED)
KEY = RECORD.key
WEB = objects.pod(samples.pod("web-0", uid=RECORD.pod.uid))


def judge(signs, first_seen=None, now=GRACE, record=RECORD):
    return collectable({record.key: record}, {record.key: signs}, first_seen or {}, now)


def doomed(signs, record=RECORD):
    """After the grace time, all of it with these signs."""
    suspected = judge(signs, now=0.0, record=record)[1]
    return judge(signs, suspected, GRACE, record)[0]


@pytest.mark.parametrize("told", list(product((True, False, None), repeat=3)))
def test_two_signs_must_agree_and_none_may_contradict(told):
    garbage = bool(doomed(Signs(*told)))
    assert garbage is (told.count(False) >= 2 and True not in told)


def test_the_cause_names_who_said_so_and_for_how_long():
    (found,) = doomed(Signs(namespace=False, api=False))
    assert found.key == KEY
    assert found.cause == (
        "garbage: its network namespace is gone and the API has no such pod running on this node, for 60 s"
    )


def test_nothing_is_collected_before_the_grace_time():
    gone = Signs(namespace=False, api=False)
    doomed, suspected = judge(gone, now=100.0)
    assert doomed == []
    assert suspected == {KEY: Suspicion(100.0, RECORD.created)}
    assert judge(gone, suspected, 100 + GRACE - 0.1)[0] == []
    assert judge(gone, suspected, 100 + GRACE)[0] != []


@pytest.mark.parametrize("between", [Signs(True, None, False), Signs(None, None, False), Signs()])
def test_a_sign_of_life_or_silence_in_between_begins_the_grace_time_anew(between):
    gone = Signs(namespace=False, api=False)
    suspected = judge(between, judge(gone, now=0.0)[1], 30.0)[1]
    assert suspected == {}
    assert judge(gone, suspected, GRACE)[0] == []


def test_a_record_made_anew_under_the_same_key_begins_anew():
    gone = Signs(namespace=False, api=False)
    again = replace(RECORD, created=RECORD.created + 5)
    assert judge(gone, judge(gone, now=0.0)[1], GRACE, again)[0] == []


@pytest.mark.parametrize(
    "record",
    [in_state(State.REQUESTED), in_state(State.TEARING_DOWN), in_state(State.TORN_DOWN)],
    ids=["an ADD in progress", "tearing down", "torn down"],
)
def test_who_is_being_worked_on_is_not_judged(record):
    assert doomed(Signs(False, False, False), record) == []


def test_what_is_no_record_any_more_is_forgotten():
    assert collectable({}, {KEY: Signs(False, False, False)}, {KEY: Suspicion(0.0, RECORD.created)}, 99.0) == ([], {})


sign = st.sampled_from([True, False, None])
looks = st.lists(
    st.tuples(st.floats(0.1, 90), st.builds(Signs, sign, sign, sign), st.booleans()), min_size=1, max_size=12
)


@given(looks)
def test_whatever_the_course_of_things_only_what_was_gone_all_the_time_is_collected(looks):
    """Each look: how long after the last, what is said, and whether the record was made anew before it."""
    now, created, suspected = 0.0, RECORD.created, {}
    gone_since = None
    for pause, signs, anew in looks:
        now += pause
        created += anew
        told = [signs.namespace, signs.runtime, signs.api]
        if told.count(False) < 2 or True in told:
            gone_since = None
        elif gone_since is None or anew:
            gone_since = now
        found, suspected = judge(signs, suspected, now, replace(RECORD, created=created))
        assert bool(found) is (gone_since is not None and now - gone_since >= GRACE)


@given(st.lists(st.tuples(st.floats(0.1, 300), st.booleans(), sign), min_size=1, max_size=10))
def test_a_pod_in_whose_namespace_packets_flow_is_never_collected(looks):
    """The API may be that of another cluster, and the runtime's list from before a restart: both may be wrong."""
    now, suspected = 0.0, {}
    for pause, runtime, api in looks:
        now += pause
        found, suspected = judge(Signs(namespace=True, runtime=runtime, api=api), suspected, now)
        assert found == []


# --- the runtime's list


def missed(at, seen_before=True):
    """What a list at that time says of a record that it lacks."""
    return runtime_sign(RECORD, RuntimeList(at, frozenset({"other@eth0"})), at + 1, seen_before)


def test_the_runtime_says_nothing_where_it_never_gave_a_list_or_gave_it_before_the_record_was_made():
    assert runtime_sign(RECORD, None, RECORD.created + 1, True) is None
    assert missed(RECORD.created - 1) is None


def test_what_the_runtime_did_not_know_then_it_will_never_know():
    last = RuntimeList(RECORD.created + MARGIN, frozenset({"other@eth0"}))
    assert runtime_sign(RECORD, last, RECORD.created + 1e6, True) is False


def test_a_record_that_is_hardly_older_than_the_list_may_have_come_while_that_was_made():
    assert missed(RECORD.created + MARGIN - 1) is None


def test_after_a_clock_was_set_back_an_old_list_says_nothing_of_a_new_record():
    """By the time of day it is an hour older than the list; it came after it."""
    assert missed(RECORD.created + 3600, seen_before=False) is None


@pytest.mark.parametrize("seen_before", [True, False])
def test_what_the_runtime_knew_long_ago_may_have_gone_since(seen_before):
    last = RuntimeList(RECORD.created + 1, frozenset({KEY}))
    assert runtime_sign(RECORD, last, last.at + FRESH - 1, seen_before) is True
    assert runtime_sign(RECORD, last, last.at + FRESH, seen_before) is None


def test_when_something_was_seen_first_is_kept_while_it_is_there():
    first = sighted({}, ["a"], 1.0)
    second = sighted(first, ["a", "b"], 2.0)
    assert second == {"a": 1.0, "b": 2.0}
    assert sighted(sighted(second, ["b"], 3.0), ["a"], 4.0) == {"a": 4.0}


# --- the API


def test_the_api_says_nothing_while_it_is_not_up_to_date():
    assert api_sign(RECORD, None) is None


@pytest.mark.parametrize(("phase", "alive"), [("Pending", True), ("Running", True), ("Succeeded", False)])
def test_a_pod_is_known_by_its_uid_and_lives_until_it_has_finished(phase, alive):
    assert api_sign(RECORD, [replace(WEB, phase=phase)]) is alive


def test_a_pod_that_is_being_deleted_still_lives():
    assert api_sign(RECORD, [replace(WEB, deleting=True)]) is True


def test_the_next_pod_of_that_name_is_another_one():
    assert api_sign(RECORD, [replace(WEB, uid="another")]) is False


def test_a_static_pod_is_known_by_its_mirror():
    assert api_sign(RECORD, [replace(WEB, uid="another", static_uid=RECORD.pod.uid)]) is True


def test_without_a_uid_the_name_decides_and_without_both_nothing_is_said():
    named = replace(RECORD, pod=Pod("default", "web-0"))
    assert api_sign(named, [WEB]) is True
    assert api_sign(named, []) is False
    assert api_sign(replace(RECORD, pod=Pod()), []) is None
