"""What tailscaled must be set to: what differs, what goes back, and who else pulls."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Prefs
from reconciler.mesh.preferences import (
    PEACE,
    REQUIRED,
    Difference,
    Tug,
    differences,
    exit_node_warning,
    remembered,
    required,
    restorable,
)
from reconciler.mesh.record import Changed, MeshRecord

OURS, THEIRS = "http://192.0.2.1:8080", "https://controlplane.tailscale.com"
RIGHT = {each.name: each.value for each in REQUIRED}


def prefs(url=OURS, **raw):
    return Prefs(control_url=url, raw={**RIGHT, "Hostname": "n1", **raw})


def now_and_must(found):
    return {each.name: (each.now, each.must) for each in found}


# --- what differs


def test_what_is_right_is_no_difference():
    assert differences(prefs(), accept_dns=False) == ()


@pytest.mark.parametrize("name", RIGHT)
def test_each_is_noticed_alone_and_has_its_reason(name):
    (found,) = differences(prefs(**{name: not RIGHT[name]}), accept_dns=False)
    assert (found.name, found.now, found.must) == (name, not RIGHT[name], RIGHT[name])
    assert found.reason


def test_dns_is_ours_only_where_it_is_asked_for():
    assert now_and_must(differences(prefs(CorpDNS=True), accept_dns=False)) == {"CorpDNS": (True, False)}
    assert now_and_must(differences(prefs(CorpDNS=False), accept_dns=True)) == {"CorpDNS": (False, True)}
    assert [each.name for each in required(True)] == [each.name for each in required(False)]


def test_what_a_tailscaled_does_not_have_cannot_differ():
    old = prefs()
    del old.raw["NoStatefulFiltering"]
    assert differences(old, accept_dns=False) == ()


def test_what_is_not_set_differs():
    assert now_and_must(differences(prefs(NoStatefulFiltering=None), False)) == {"NoStatefulFiltering": (None, True)}


@pytest.mark.parametrize(
    ("no_snat", "routes", "warned"),
    [
        (True, ("10.244.1.0/24", "0.0.0.0/0", "::/0"), True),
        (True, ("::/0",), True),
        (True, ("10.244.1.0/24",), False),
        (False, ("0.0.0.0/0",), False),
    ],
)
def test_an_exit_node_is_warned_that_its_clients_lose_snat(no_snat, routes, warned):
    found = exit_node_warning(replace(prefs(NoSNAT=no_snat), advertise=routes))
    assert (found is not None) is warned
    if found:
        assert found.trouble.code == Trouble.PREFERENCE
        assert "exit node" in found.trouble.msg


# --- what was there before


def changed(**raw):
    return differences(prefs(**raw), accept_dns=False)


def test_what_was_there_is_remembered_but_whether_it_ran():
    record = remembered(MeshRecord(), changed(RouteAll=False, CorpDNS=True, WantRunning=False), OURS)
    assert record.prefs == {"RouteAll": Changed(False, True), "CorpDNS": Changed(True, False)}
    assert record.control_url == OURS


def test_where_nothing_is_to_be_remembered_the_record_is_the_same():
    record = MeshRecord(OURS)
    assert remembered(record, changed(WantRunning=False), THEIRS) is record


def test_only_what_was_there_first_goes_back():
    record = remembered(MeshRecord(), (Difference("CorpDNS", None, False, ""),), OURS)
    record = remembered(record, (Difference("CorpDNS", False, True, ""),), OURS)  # accept-dns asked for, later
    assert record.prefs == {"CorpDNS": Changed(None, True)}


@pytest.mark.parametrize(
    ("recorded", "now", "back"),
    [
        (Changed(False, True), {"RouteAll": True}, {"RouteAll": False}),
        (Changed(False, True), {"RouteAll": False}, {}),  # somebody did it before us
        (Changed(1, 2), {"RouteAll": 3}, {}),  # somebody wants something else
        (Changed(True, True), {"RouteAll": True}, {}),
    ],
)
def test_only_what_is_still_as_we_left_it_goes_back(recorded, now, back):
    assert restorable(MeshRecord(OURS, prefs={"RouteAll": recorded}), prefs(**now)) == back


def test_what_tailscaled_no_longer_has_does_not_go_back():
    record = MeshRecord(OURS, prefs={"Gone": Changed(False, True)})
    assert restorable(record, prefs()) == {}


def test_nothing_goes_back_at_another_server():
    record = MeshRecord(OURS, prefs={"RouteAll": Changed(False, True)})
    assert restorable(record, prefs(url=OURS + "/")) == {"RouteAll": False}
    assert restorable(record, prefs(url=THEIRS)) == {}


SWITCHES = [each.name for each in REQUIRED if each.put_back]
events = st.one_of(
    st.just("remember"), st.just("repair"), st.just("killed"), st.tuples(st.sampled_from(SWITCHES), st.booleans())
)


@given(st.fixed_dictionaries({name: st.booleans() for name in SWITCHES}), st.lists(events, max_size=30))
def test_after_any_history_each_preference_is_as_before_us_or_as_somebody_left_it(before, history):
    """Ours are two steps, the record and the edit, with kills and others between any two."""
    actual, record, others = dict(before), MeshRecord(), dict(before)
    planned: tuple[Difference, ...] | None = None
    for event in history:
        if event == "remember":
            planned = differences(Prefs(control_url=OURS, raw=dict(actual)), accept_dns=False)
            record = remembered(record, planned, OURS)
        elif event == "repair" and planned is not None:
            actual.update({each.name: each.must for each in planned})
            planned = None
        elif event == "killed":
            planned = None
        elif isinstance(event, tuple):
            actual[event[0]] = others[event[0]] = event[1]
    for _ in range(2):  # an uninstall, killed after the edit and run again
        actual.update(restorable(record, Prefs(control_url=OURS, raw=dict(actual))))
    for name, value in actual.items():
        if not any(isinstance(event, tuple) and event[0] == name for event in history):
            assert value == before[name], name
        elif others[name] != RIGHT[name] and "repair" not in history:
            assert value == others[name], name  # what equals ours cannot be told from ours


# --- who else pulls

ROUTES = (Difference("RouteAll", False, True, "without it nothing goes"),)
SHIELDS = (Difference("ShieldsUp", True, False, "with it nothing comes"),)


def pulled(tug, times, start=0.0, step=1.0, what=ROUTES):
    """Turned back `times` times, and repaired each time; when it was last turned back."""
    tug.repaired(tug.judge(what, start).repair)
    for number in range(1, times + 1):
        tug.repaired(tug.judge(what, start + number * step).repair)
    return start + times * step


def test_twice_turned_back_is_repaired_and_the_third_time_is_a_fight():
    tug = Tug()
    last = pulled(tug, 2)
    first, second = tug.judge(ROUTES, last + 1), tug.judge(ROUTES, last + 2)
    assert first.repair == second.repair == ()
    (fight,) = first.fights
    assert fight.code == Trouble.PREFERENCE
    assert "RouteAll is false and must be true" in fight.msg
    assert "3 times within 10 minutes" in fight.msg
    assert "without it nothing goes" in fight.details


def test_looking_is_not_turning_back():
    tug = Tug()
    last = pulled(tug, 1)
    tug.repaired(ROUTES)
    tug.judge(ROUTES, last + 1)
    assert tug.judge(ROUTES, last + 2).repair == tug.judge(ROUTES, last + 3).repair == ROUTES


def test_a_difference_that_is_not_repaired_is_not_turned_back():
    tug = Tug()
    assert all(tug.judge(ROUTES, float(now)).repair == ROUTES for now in range(100))


def test_one_that_is_turned_back_seldom_is_repaired_for_ever():
    tug = Tug()
    pulled(tug, 50, step=PEACE / 2)
    assert tug.judge(ROUTES, 51 * PEACE / 2).fights == ()


def test_others_are_repaired_while_one_is_fought_over():
    tug = Tug()
    last = pulled(tug, 3)
    verdict = tug.judge(ROUTES + SHIELDS, last)
    assert verdict.repair == SHIELDS
    assert len(verdict.fights) == 1


def test_after_ten_minutes_of_peace_it_is_tried_again():
    tug = Tug()
    last = pulled(tug, 3)
    assert tug.judge(ROUTES, last + PEACE - 1).repair == ()
    assert tug.judge(ROUTES, last + PEACE).repair == ROUTES


def test_an_operators_word_ends_a_fight():
    tug = Tug()
    last = pulled(tug, 3)
    tug.reset()
    assert tug.judge(ROUTES, last + 1).repair == ROUTES
    pulled(tug, 3, start=last + 2)
    assert tug.judge(ROUTES, last + 10).fights
