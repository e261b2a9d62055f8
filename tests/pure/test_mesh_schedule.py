"""Who is asked when, in virtual time: `play` lives through it as the daemon would, `alive` says who answers."""

import itertools
from collections import Counter
from ipaddress import ip_address, ip_network

import pytest

from reconciler.mesh.networks import gateway
from reconciler.mesh.ration import Ration
from reconciler.mesh.schedule import Ask, Purpose, Schedule, Standing

W, D = Purpose.WITNESS, Purpose.DELIVERY


def everybody(target):
    return True


def nobody(target):
    return False


class Play:
    """A schedule and its clock. What was asked is in `asked`, as (time, ask)."""

    def __init__(self, peers, seed="n1", online=everybody):
        self.now = 1000.0
        self.schedule = Schedule(seed)
        self.asked = []
        self.set(peers, online)

    def set(self, peers, online=everybody):
        known = {ip_address(f"100.64.{n // 250}.{n % 250}"): online(n) for n in peers}
        self.schedule.peers_changed(self.now, known, {prefix(n) for n in peers})

    def run(self, seconds, alive=everybody, patience=0.5):
        """→ what was asked in this time. Who is not alive is known to be silent `patience` later."""
        until, before, silent = self.now + seconds, len(self.asked), []
        while True:
            next_at = min([self.schedule.next_due(self.now), *(at for at, _ in silent[:1])])
            if next_at > until:
                self.now = until
                return self.asked[before:]
            self.now = max(self.now, next_at)
            while silent and silent[0][0] <= self.now:
                self.schedule.unanswered(silent.pop(0)[1], self.now, "no answer")
            for ask in self.schedule.due(self.now):
                self.asked.append((self.now, ask))
                if alive(ask.target):
                    self.schedule.answered(ask, self.now, 0.7)
                else:
                    silent.append((self.now + patience, ask))


def prefix(n):
    return ip_network(f"10.{100 + n // 250}.{n % 250}.0/24")


def times(asked, purpose, target=None):
    return [at for at, ask in asked if ask.purpose is purpose and target in (None, ask.target)]


def targets(asked, purpose):
    return {ask.target for _, ask in asked if ask.purpose is purpose}


def gaps(moments):
    return [round(later - earlier, 3) for earlier, later in itertools.pairwise(moments)]


def most_in_a_second(moments):
    return max(sum(start <= at < start + 1 for at in moments) for start in moments)


# --- witnesses


def test_without_peers_there_is_nobody_to_ask():
    play = Play([])
    assert play.schedule.due(play.now) == []
    assert play.schedule.next_due(play.now) == float("inf")


def test_three_witnesses_are_asked_every_two_seconds_however_many_there_are():
    play = Play(range(100))
    assert len(targets(play.run(1), W)) == 8  # whoever of these answers first
    witnesses = play.schedule.witnesses
    asked = play.run(60)
    assert targets(asked, W) == set(witnesses)
    assert len(witnesses) == 3
    for each in witnesses:
        assert set(gaps(times(asked, W, each))) == {2.0}


def test_in_a_hurry_they_are_asked_each_second_from_now_on():
    play = Play(range(3))
    play.run(10.5)
    play.schedule.hurry(True)
    asked = times(play.run(10), W, play.schedule.witnesses[0])
    assert asked[0] <= 1011.0
    assert set(gaps(asked)) == {1.0}
    play.schedule.hurry(False)
    assert set(gaps(times(play.run(10), W, play.schedule.witnesses[0]))) == {2.0}


def test_a_witness_that_was_silent_twice_stays():
    play = Play(range(20))
    play.run(10)
    one = play.schedule.witnesses[0]
    for _ in range(3):
        play.run(4, alive=lambda target: target != one)
        play.run(2)
    assert one in play.schedule.witnesses


def test_a_witness_that_was_silent_three_times_is_replaced_by_one_that_answered_before():
    play = Play(range(50))
    answered = targets(play.run(1), W)
    one, *others = play.schedule.witnesses
    play.run(9, alive=lambda target: target != one)
    assert one not in play.schedule.witnesses
    assert set(others) < set(play.schedule.witnesses) < answered


def test_a_witness_that_is_gone_is_replaced_at_once():
    play = Play(range(20))
    play.run(10)
    gone = [int(str(each).rpartition(".")[2]) for each in play.schedule.witnesses[:2]]
    play.set([n for n in range(20) if n not in gone])
    play.run(2)
    assert len(play.schedule.witnesses) == 3


def test_as_long_as_nobody_answers_eight_are_asked_in_turn():
    play = Play(range(40))
    asked = play.run(9.9, alive=nobody)
    assert Counter(times(asked, W)) == dict.fromkeys([1000.0, 1002.0, 1004.0, 1006.0, 1008.0], 8)
    assert len(targets(asked, W)) == 40


def test_the_only_one_that_answers_is_found_and_kept_while_the_search_goes_on():
    only = ip_address("100.64.0.33")
    play = Play(range(40))
    play.run(10, alive=lambda target: target == only)
    assert play.schedule.witnesses == (only,)
    asked = play.run(20, alive=lambda target: target == only)
    assert set(Counter(times(asked, W)).values()) == {8}
    assert set(gaps(times(asked, W, only))) == {2.0}
    assert len(targets(asked, W)) == 40


def test_online_ones_first_but_offline_ones_too():
    play = Play(range(40), online=lambda n: n >= 20)
    asked = play.run(5.9, alive=nobody)
    online = {ip_address(f"100.64.0.{n}") for n in range(20, 40)}
    assert targets(asked, W) == online
    assert len(targets(play.run(30, alive=nobody), W)) == 40


def test_each_node_finds_other_witnesses_and_the_same_node_the_same():
    chosen = {}
    for seed in ("n1", "n2", "n3", "n4"):
        play = Play(range(200), seed=seed)
        play.run(10)
        chosen[seed] = set(play.schedule.witnesses)
    again = Play(range(200), seed="n1")
    again.run(10)
    assert len(set.union(*chosen.values())) > 9
    assert set(again.schedule.witnesses) == chosen["n1"]


# --- delivery


def test_each_prefix_once_a_minute():
    play = Play(range(30))
    play.run(60)
    asked = play.run(600)
    for n in range(30):
        moments = times(asked, D, gateway(prefix(n)))
        assert len(moments) == 10
        assert set(gaps(moments)) == {60.0}


def test_never_more_than_five_in_a_second_and_still_everybody_in_turn():
    play = Play(range(1000))
    asked = play.run(1000)
    assert most_in_a_second(times(asked, D)) == 5
    per_target = Counter(ask.target for _, ask in asked if ask.purpose is D)
    assert set(per_target.values()) == {4, 5}
    assert len(per_target) == 1000


def test_a_failure_is_tried_again_after_2_4_8_and_so_on():
    play = Play(range(5))
    play.run(61)
    bad = gateway(prefix(2))
    asked = times(play.run(300, alive=lambda target: target != bad, patience=0.5), D, bad)
    assert gaps(asked) == [2.5, 4.5, 8.5, 16.5, 32.5, 60.0, 60.0]
    back = times(play.run(121), D, bad)
    assert gaps(back) == [60.0]
    play.run(1, alive=nobody)
    again = times(play.run(70, alive=lambda target: target != bad), D, bad)
    assert gaps(again)[:2] == [2.5, 4.5]  # it began anew


def test_a_new_prefix_is_tried_at_once():
    play = Play(range(100))
    play.run(330)
    play.set(range(101))
    assert times(play.run(1), D, gateway(prefix(100))) == [1330.0]


def test_where_something_happened_is_tried_at_once_and_strangers_never():
    play = Play(range(10))
    play.run(130, alive=nobody)
    play.schedule.soon(play.now, [prefix(3), prefix(77)])
    asked = play.run(0.2)
    assert times(asked, D, gateway(prefix(3))) == [1130.0]
    assert times(asked, D, gateway(prefix(77))) == []


def test_an_outcome_that_never_comes_loses_nothing():
    schedule = Schedule("n1")
    schedule.peers_changed(0.0, {}, {prefix(1)})
    assert schedule.due(0.0) == [Ask(D, gateway(prefix(1)))]
    assert schedule.due(59.0) == []
    assert schedule.next_due(59.0) == 60.0
    assert schedule.due(60.0) == [Ask(D, gateway(prefix(1)))]


def test_the_address_of_one_pod_is_not_tried():
    schedule = Schedule("n1")
    schedule.peers_changed(0.0, {}, {ip_network("10.1.2.3/32"), ip_network("fd00::3/128"), ip_network("fd00:1::/64")})
    assert [ask.target for ask in schedule.due(0.0)] == [ip_address("fd00:1::1")]


# --- after a restart of tailscaled


def test_after_a_restart_each_about_once_a_second_for_twenty_seconds():
    play = Play(range(30))
    play.run(100)
    play.schedule.restarted(play.now)
    asked = play.run(19.9, alive=nobody)
    for n in range(30):
        assert set(gaps(times(asked, D, gateway(prefix(n))))) == {1.0}
        assert len(times(asked, D, gateway(prefix(n)))) == 20
    play.run(10)
    assert len(times(play.run(60), D)) == 30


def test_then_fifty_a_second_at_most_and_round_robin():
    play = Play(range(200))
    play.run(100)
    play.schedule.restarted(play.now)
    asked = play.run(19.9)
    assert most_in_a_second(times(asked, D)) == 50
    assert set(Counter(ask.target for _, ask in asked if ask.purpose is D).values()) == {5}
    assert most_in_a_second(times(play.run(200), D)[50:]) == 5


def test_what_fails_at_the_end_of_those_twenty_seconds_is_tried_again_soon():
    play = Play(range(3))
    play.run(100)
    play.schedule.restarted(play.now)
    play.run(20, alive=nobody)
    asked = play.run(20, alive=nobody)
    for n in range(3):
        assert max(gaps([1120.0, *times(asked, D, gateway(prefix(n)))])) <= 8.5


# --- what is known


def test_standings_say_since_when_and_why():
    play = Play([1])
    bad = prefix(1)
    assert play.schedule.delivery(bad) is None
    play.run(130)
    assert play.schedule.delivery(bad) == Standing(since=1000.0, answered_at=1120.0, rtt_ms=0.7)
    play.run(60, alive=nobody)
    standing = play.schedule.delivery(bad)
    assert standing == Standing(1180.5, 1120.0, 0.7, standing.failures, "no answer")
    assert standing.failures == 3
    play.run(30)
    assert play.schedule.delivery(bad) == Standing(since=1195.5, answered_at=1195.5, rtt_ms=0.7)
    assert play.schedule.witness(ip_address("100.64.0.1")).failures == 0


def test_who_goes_is_forgotten_even_if_an_outcome_comes_late():
    play = Play(range(3))
    play.run(3)
    gone = Ask(W, ip_address("100.64.0.1")), Ask(D, gateway(prefix(1)))
    play.set([0, 2])
    for ask in gone:
        play.schedule.answered(ask, play.now, 0.7)
        play.schedule.unanswered(ask, play.now, "no answer")
    assert play.schedule.witness(gone[0].target) is None
    assert play.schedule.delivery(prefix(1)) is None
    assert not targets(play.run(120), W) & {gone[0].target}
    assert not targets(play.run(120), D) & {gone[1].target}


def test_memory_is_bounded_by_the_number_of_peers():
    play = Play(range(20))
    schedule = play.schedule
    for turn in range(200):
        schedule.soon(play.now, [prefix(n) for n in range(20)])
        play.run(0.9, alive=nobody if turn % 3 else everybody)
        play.set(range(turn % 7, 20))
        play.set(range(20))
        assert len(schedule._deliveries._line) <= 2 * 20 + 16
    play.set([])
    schedule.next_due(play.now)
    assert not any(schedule._standings.values())
    assert not schedule._deliveries._line
    assert not schedule._deliveries._turns
    assert not schedule._witnesses._peers


# --- the ration


@pytest.mark.parametrize("step", [0.01, 0.3, 1.0])
def test_a_ration_is_kept_in_every_second(step):
    ration, taken = Ration(5), []
    for n in range(int(10 / step)):
        now = n * step
        if ration.take(now):
            taken.append(now)
    assert most_in_a_second(taken) == min(5, int(1 / step) + (1 % step > 1e-9))


def test_a_ration_says_when_the_next_is_free():
    ration = Ration(2)
    assert ration.free_at() == float("-inf")
    assert ration.take(10.0)
    assert ration.take(10.5)
    assert ration.free_at() == 11.0
    assert not ration.take(10.9)
    assert ration.take(11.0)
    assert ration.free_at() == 11.5
