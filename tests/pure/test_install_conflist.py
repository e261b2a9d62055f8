"""What is decided for the directory of network configurations, and who wins a fight over it."""

from __future__ import annotations

import pytest

from cni.spec import Refusal
from reconciler.install import fights
from reconciler.install.codes import Trouble
from reconciler.install.conflist import Adopt, Present, Remove, SetAside, Wish, Write, decide, recorded
from reconciler.install.fights import PEACE, TIMES, Fights
from reconciler.install.record import InstallRecord
from reconciler.node.confdir import Conf

DIR, STATE = "/etc/cni/net.d", "/var/lib/headcni"
OURS = f"{DIR}/10-headcni.conflist"
WISH = Wish(OURS, "new", STATE)
ASIDE = Wish(OURS, "new", STATE, set_aside=True)
KNOWN = InstallRecord(conflists={OURS: ("old",)})


def file(name, *types, digest="theirs", state_dirs=(), broken=""):
    return Present(Conf(f"{DIR}/{name}", "net", types, broken), digest, state_dirs)


def ours(digest, name="10-headcni.conflist", state_dir=STATE):
    return file(name, "headcni", "headcni-ipam", digest=digest, state_dirs=(state_dir,))


FLANNEL = file("05-flannel.conflist", "flannel", "portmap")
FIRST, ANEW, PUT_BACK, CHANGED = (
    Write(OURS, "new", why)
    for why in ("the node can serve pods", "the template has changed", "it was missing", "it was changed")
)


# --- our own file


@pytest.mark.parametrize(
    ("record", "present", "steps"),
    [
        (InstallRecord(), [], (FIRST,)),
        (InstallRecord(), [ours("new")], (Adopt(OURS, "new"),)),
        (KNOWN.with_conflist(OURS, "new"), [ours("new")], ()),
        (KNOWN, [ours("old")], (ANEW,)),
        (KNOWN, [], (PUT_BACK,)),
        (KNOWN, [ours("edited")], (CHANGED,)),
        (KNOWN, [file("10-headcni.conflist", broken="not JSON")], (CHANGED,)),
        (InstallRecord(), [ours("by hand")], (SetAside(OURS), FIRST)),
        (InstallRecord(), [file("10-headcni.conflist", "bridge")], (SetAside(OURS), FIRST)),
        (KNOWN.with_aside([OURS]), [ours("by hand")], (SetAside(OURS), FIRST)),  # killed before it was set aside
    ],
)
def test_our_file_becomes_as_wished_and_a_foreign_one_under_its_name_is_kept(record, present, steps):
    assert decide(WISH, present, record) == (decided := decide(ASIDE, present, record))
    assert (decided.steps, decided.refusals) == (steps, ())


def test_what_was_set_aside_is_not_taken_for_something_still_to_be_set_aside():
    assert decide(WISH, [ours("edited")], KNOWN.with_aside([OURS]), {OURS}).steps == (CHANGED,)


def test_a_name_that_is_taken_keeps_the_foreign_file_where_it_is():
    decided = decide(WISH, [ours("by hand")], InstallRecord(), {OURS})
    assert decided.steps == ()
    assert [each.code for each in decided.refusals] == [Trouble.SET_ASIDE]
    assert f"{OURS}.before-headcni is there already" in decided.refusals[0].msg


def test_one_of_ours_under_another_name_goes_after_the_new_one_is_there():
    old = f"{DIR}/05-headcni.conflist"
    record = InstallRecord(conflists={old: ("old",)})
    assert decide(WISH, [ours("old", "05-headcni.conflist")], record).steps == (FIRST, Remove(old, ("old",)))


# --- others


def test_others_that_win_are_set_aside_only_when_that_is_asked_for():
    broken = file("07-broken.conf", broken="07-broken.conf is not JSON")
    behind = file("87-podman.conflist", "bridge")
    present = [FLANNEL, broken, ours("new"), behind]
    record = InstallRecord(conflists={OURS: ("new",)})
    assert decide(WISH, present, record).steps == ()
    assert decide(ASIDE, present, record).steps == (SetAside(FLANNEL.path), SetAside(broken.path))


def test_they_are_set_aside_when_ours_is_written():
    assert decide(ASIDE, [FLANNEL], InstallRecord()).steps == (FIRST, SetAside(FLANNEL.path))


@pytest.mark.parametrize("types", [("multus",), ("multus-shim",), ("bridge", "headcni-ipam")])
def test_one_that_leads_to_us_on_purpose_stays(types):
    assert decide(ASIDE, [file("00-it.conf", *types)], InstallRecord()) == decide(ASIDE, [], InstallRecord())


def test_what_its_owner_wrote_anew_takes_the_place_of_what_was_set_aside():
    record = InstallRecord(set_aside=frozenset({FLANNEL.path}))
    assert decide(ASIDE, [FLANNEL], record, {FLANNEL.path}).steps == (FIRST, SetAside(FLANNEL.path))


def test_one_that_cannot_be_set_aside_does_not_keep_ours_away():
    decided = decide(ASIDE, [FLANNEL], InstallRecord(), {FLANNEL.path})
    assert decided.steps == (FIRST,)
    assert [each.code for each in decided.refusals] == [Trouble.SET_ASIDE]


def test_who_wins_is_left_alone_where_nobody_asked_and_told_by_the_lookout():
    decided = decide(WISH, [FLANNEL], InstallRecord())
    assert (decided.steps, decided.refusals) == ((FIRST,), ())


# --- a second installation


@pytest.mark.parametrize(
    "other",
    [
        ours("x", "05-other.conflist", "/var/lib/other"),
        ours("x", "90-other.conflist", "/var/lib/other"),
        ours("x", "90-other.conflist"),
        ours("x", state_dir="/var/lib/other"),
    ],
)
@pytest.mark.parametrize("record", [InstallRecord(), KNOWN])
def test_another_headcni_is_a_refusal_that_names_both_and_nothing_is_done(other, record):
    decided = decide(ASIDE, [FLANNEL, other], record)
    assert decided.steps == ()
    (refusal,) = decided.refusals
    assert refusal.code == Trouble.SECOND_INSTALLATION
    assert [each for each in (other.path, *other.state_dirs, OURS, STATE) if each not in refusal.msg] == []


# --- the record


def test_what_is_written_and_set_aside_is_recorded_and_what_is_left_is_not():
    steps = (SetAside(FLANNEL.path), FIRST, Remove("/x", ("y",)))
    assert recorded(InstallRecord(), steps) == InstallRecord(
        conflists={OURS: ("new",)}, set_aside=frozenset({FLANNEL.path})
    )
    assert recorded(KNOWN, [Adopt(OURS, "new")]).conflists == {OURS: ("new", "old")}
    assert recorded(KNOWN, []) == KNOWN


# --- fights


def undone_at(fights, *instants, path="/f", what="new"):
    """It is found undone at each of them, and done again where that is not refused."""
    lost = []
    for now in instants:
        lost.append(isinstance(fights.lost(path, what, now), Refusal))
        if not lost[-1]:
            fights.did(path, what)
    return lost


def test_after_the_third_time_it_is_left():
    assert undone_at(Fights(), *range(7)) == [False] * TIMES + [True] * 4


def test_it_is_tried_again_after_peace():
    assert undone_at(Fights(), 0, 1, 2, 3, 3 + PEACE - 1, 3 + PEACE, 4 + PEACE)[3:] == [True, True, False, False]


def test_seldom_is_no_fight():
    assert not any(undone_at(Fights(), *[number * PEACE / 2 for number in range(9)]))


def test_what_could_not_be_done_was_not_undone():
    fighting = Fights()
    assert [fighting.lost("/f", "new", now) for now in range(9)] == [None] * 9


def test_a_template_that_changes_is_no_fight():
    fighting = Fights()
    assert not any(any(undone_at(fighting, now, what=f"template {now}")) for now in range(9))


def test_one_fight_does_not_stop_another_file():
    fighting = Fights()
    undone_at(fighting, *range(5))
    assert undone_at(fighting, 5, path="/other") == [False]
    refusal = fighting.lost("/f", "new", 5)
    assert (refusal.code, "/f" in refusal.msg) == (Trouble.CONFLIST_FIGHT, True)
    assert fights.PEACE > 60
