"""What is tried when a link does not hold, and how often: the budgets, without a world around them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from itertools import pairwise

import pytest

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import (
    Chain,
    ControlNode,
    Device,
    Holds,
    KernelView,
    Link,
    LinkState,
    Peer,
    Prefs,
    Report,
    Sight,
    Tailnet,
)
from reconciler.mesh.repair import FIRST_REFRESH, LAST_APPROVAL, LAST_REFRESH, MISSING, PATIENCE, SILENT, Act, Repair
from reconciler.mesh.verify import Seen

OWN, THEIRS = ip_network("10.244.1.0/24"), ip_network("10.244.2.0/24")
ME = Peer("nodekey:me", name="me", online=True)
PEER = Peer("nodekey:two", name="two", routes=frozenset({THEIRS}), online=True)
PREFS = Prefs("http://h:1", True, advertise=(str(OWN),), raw={"RouteAll": True})
TABLE = KernelView(Device("tailscale0", 4, 1280), frozenset({THEIRS}))
NODE = ControlNode("1", "me", "nodekey:me", approved=frozenset({OWN}), primary=frozenset({OWN}))
SAID_SO = Report(1000.0, "two", {OWN: Sight(True, True)}, (THEIRS,))
YES = LinkState(Holds.YES)
NOT_APPROVED = Refusal(Trouble.NOT_APPROVED, "no node is sent it", "approve it")
RIVAL = Refusal(Trouble.NOT_PRIMARY, "sent to two", "remove it there")


def cluster():
    return (ip_network("10.244.0.0/16"),)


def seen(**changes):
    tailnet = Tailnet("1.102.3", "Running", True, True, "", (), ME, {PEER.key: PEER})
    told = {"at": 1000.0, "wall": 5000.0, "tailnet": tailnet, "prefs": PREFS, "kernel": TABLE, "refreshed_at": 1000.0}
    return Seen(**{**told, **changes})


def chain(since=0.0, **links):
    """All well, but for these."""
    given = {link: links.get(link.value, YES) for link in Link}
    return (Chain(OWN, {link: replace(state, since=since) for link, state in given.items()}),)


def acts(repair, *arguments):
    return [mend.act for mend in repair.plan(*arguments)]


WELL = chain()
IDLE = chain(approved=YES, serving=LinkState(Holds.NO, "two is not sent it", NOT_APPROVED))
UNKNOWN = chain(serving=LinkState(Holds.UNKNOWN))


def over_time(repair, wanted, chains, seconds, step=0.5, **changes):
    """When this act was planned, in seconds after the beginning."""
    found = []
    for number in range(int(seconds / step)):
        after = number * step
        now = seen(at=1000.0 + after, wall=5000.0 + after, **changes)
        found += [after for act in acts(repair, now, chains) if act is wanted]
    return found


def test_where_all_is_well_nothing_is_done_or_needed():
    repair = Repair("auto", cluster)
    assert acts(repair, seen(), WELL) == []
    assert repair.needed == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"tailnet": Refusal(Trouble.TAILSCALED_UNREACHABLE, "gone", "start it")},
        {"prefs": Refusal(Trouble.TAILSCALED_UNREACHABLE, "gone", "start it")},
        {"unjoined": Refusal(Trouble.JOINED_ELSEWHERE, "elsewhere", "leave")},
    ],
)
def test_who_is_no_member_or_does_not_answer_is_not_mended(changes):
    repair = Repair("key", cluster)
    assert acts(repair, seen(**changes), IDLE) == []
    assert repair.needed == set()


# --- approving


def test_what_is_missing_is_approved_at_once_and_then_less_and_less_often():
    bare = (replace(NODE, approved=frozenset()),)
    times = over_time(Repair("key", cluster), Act.APPROVE, WELL, 119, control=bare, control_at=1000.0)
    assert times[:5] == [0.0, 2.0, 6.0, 14.0, 30.0]
    assert times[5] - times[4] == LAST_APPROVAL


def test_the_next_loss_is_approved_at_once_again():
    repair, bare = Repair("key", cluster), (replace(NODE, approved=frozenset()),)
    for at in (1000.0, 1002.0, 1006.0, 1014.0):
        acts(repair, seen(at=at, control=bare, control_at=at), WELL)
    acts(repair, seen(at=1020.0, control=(NODE,), control_at=1020.0), WELL)
    assert repair.needed == set()
    assert acts(repair, seen(at=1021.0, control=bare, control_at=1021.0), WELL) == [Act.APPROVE]


@pytest.mark.parametrize("approval", ["auto", "approver"])
def test_only_who_has_the_key_approves(approval):
    bare = (replace(NODE, approved=frozenset()),)
    assert acts(Repair(approval, cluster), seen(control=bare, control_at=1000.0), WELL) == []


def test_while_headscale_has_not_answered_it_is_not_asked_again():
    repair, bare = Repair("key", cluster), (replace(NODE, approved=frozenset()),)
    repair.waiting = True
    assert acts(repair, seen(control=bare, control_at=1000.0), WELL) == []
    assert repair.needed == {Act.APPROVE}


# --- announcing again


def test_what_nobody_serves_is_announced_again_after_a_while_three_times():
    times = over_time(Repair("auto", cluster), Act.REANNOUNCE, IDLE, 500)
    assert len(times) == 3
    assert times[1] - times[0] >= PATIENCE
    assert times[2] - times[1] >= PATIENCE


@pytest.mark.parametrize(
    "links",
    [
        {"serving": LinkState(Holds.NO, "", RIVAL)},
        {"serving": LinkState(Holds.UNKNOWN)},
        {"announced": LinkState(Holds.NO), "serving": LinkState(Holds.NO, "", NOT_APPROVED)},
        {"approved": LinkState(Holds.UNKNOWN), "serving": LinkState(Holds.NO, "", NOT_APPROVED)},
    ],
)
def test_what_another_announcement_cannot_help_is_left(links):
    assert Act.REANNOUNCE not in acts(Repair("auto", cluster), seen(wall=9000.0), chain(**links))


def test_without_a_policy_an_unapproved_prefix_is_left_to_whoever_approves():
    lost = LinkState(Holds.UNKNOWN, "", NOT_APPROVED)
    idle = chain(approved=lost, serving=LinkState(Holds.NO, "", NOT_APPROVED))
    assert Act.REANNOUNCE in acts(Repair("auto", cluster), seen(wall=9000.0), idle)
    assert Act.REANNOUNCE not in acts(Repair("approver", cluster), seen(wall=9000.0), idle)


# --- routes that tailscaled's table lost


def test_a_lost_route_is_waited_for_and_then_toggled_for_once():
    repair, lost = Repair("auto", cluster), KernelView(TABLE.device)
    times = over_time(repair, Act.TOGGLE, WELL, 700, kernel=lost)
    assert times == [MISSING], "if one did not bring it back, another one will not"
    acts(repair, seen(at=2000.0, refreshed_at=2000.0), WELL)
    again = [act for at in (2001.0, 2004.5) for act in acts(repair, seen(at=at, kernel=lost, refreshed_at=at), WELL)]
    assert again == [Act.TOGGLE], "it had been back meanwhile"


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": KernelView()},
        {"prefs": replace(PREFS, raw={"RouteAll": False})},
        {"tailnet": replace(seen().tailnet, peers={PEER.key: replace(PEER, online=False)})},
        {"tailnet": replace(seen().tailnet, peers={PEER.key: replace(PEER, expired=True)})},
        {"tailnet": replace(seen().tailnet, peers={PEER.key: replace(PEER, routes=frozenset([OWN.supernet(10)]))})},
    ],
)
def test_what_should_not_be_in_the_table_is_not_missed(changes):
    changes = {"kernel": KernelView(TABLE.device), **changes}
    assert over_time(Repair("auto", cluster), Act.TOGGLE, WELL, 20, **changes) == []


def test_where_preferences_are_not_ours_nothing_is_toggled():
    repair = Repair("auto", cluster, may_toggle=False)
    assert over_time(repair, Act.TOGGLE, WELL, 20, kernel=KernelView(TABLE.device)) == []


# --- refreshing


def test_where_nobody_can_tell_it_is_refreshed_twice_as_seldom_each_time():
    times = over_time(Repair("auto", cluster), Act.REFRESH, UNKNOWN, 700, refreshed_at=-1.0)
    gaps = [after - before for before, after in pairwise(times)]
    assert times[0] == 0.0
    assert gaps[0] == FIRST_REFRESH
    assert all(after == min(2 * before, LAST_REFRESH) for before, after in pairwise(gaps))


def test_news_shorten_the_wait_but_not_each_of_them():
    repair, count = Repair("auto", cluster), 0
    for number in range(600):
        now = 1000.0 + number
        repair.news(now)
        count += len(acts(repair, seen(at=now, refreshed_at=-1.0), UNKNOWN))
    assert count <= 600 / 60 * 4, "three or four in a minute, however much happens"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reports": {"two": replace(SAID_SO, at=1000.0 - SILENT - 0.1)}}, "witnesses fell silent"),
        ({"control": (replace(NODE, key="nodekey:other"),), "control_at": 1000.0}, "does not have this node"),
        ({"doubted_at": 1000.5}, "nobody else can tell"),
        ({"refreshed_at": 1000.0 - LAST_REFRESH - 1}, "old"),
    ],
)
def test_what_a_refresh_is_good_for(changes, reason):
    (mend,) = Repair("auto", cluster).plan(seen(**changes), WELL)
    assert mend.act is Act.REFRESH
    assert reason in mend.why


@pytest.mark.parametrize(
    "changes",
    [
        {"reports": {"two": SAID_SO}, "refreshed_at": -1.0},
        {"control": (NODE,), "control_at": 1000.0, "refreshed_at": -1.0},
    ],
)
def test_whoever_can_be_asked_makes_a_refresh_needless(changes):
    assert acts(Repair("auto", cluster), seen(**changes), WELL) == []


def test_an_operators_word_gives_every_budget_back():
    repair = Repair("auto", cluster)
    over_time(repair, Act.REANNOUNCE, IDLE, 500)
    later = seen(at=1500.0, wall=5500.0)
    assert Act.REANNOUNCE not in acts(repair, later, IDLE)
    assert Act.REANNOUNCE in repair.needed
    repair.reset()
    assert Act.REANNOUNCE in acts(repair, later, IDLE)
