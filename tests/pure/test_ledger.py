"""Giving addresses, taking them back, and deriving it all from the records again."""

import random
import tracemalloc
from ipaddress import ip_address, ip_network

import pytest

from cni.spec import Code, Refusal
from reconciler.ipam.ledger import Allocation, Clash, Ledger
from reconciler.ipam.pool import PoolSpec, Strategy
from reconciler.ipam.stock import Conflict

V4 = PoolSpec(ip_network("10.1.0.0/29"))  # gives .2 to .6
V6 = PoolSpec(ip_network("fd00::/125"))  # gives ::2 to ::7
DENSE = PoolSpec(ip_network("10.1.0.0/29"), strategy=Strategy.DENSE_PACK)


class World:
    """A ledger, the clock it reads and the node it stands on."""

    def __init__(self):
        self.time = 1000.0
        self.foreign = {}
        self.ledger = self.restarted()

    def restarted(self):
        return Ledger(lambda: self.time, random.Random(1), lambda: self.foreign)

    def give(self, owner, *specs, asked=()):
        answer = self.ledger.allocate(owner, specs or (V4,), [ip_address(each) for each in asked])
        assert isinstance(answer, Allocation), answer
        return " ".join(map(str, answer.addresses))

    def refuse(self, owner, *specs, asked=()):
        answer = self.ledger.allocate(owner, specs or (V4,), [ip_address(each) for each in asked])
        assert isinstance(answer, Refusal), answer
        return answer

    def fill(self, count=5):
        return [self.give(f"c{n}@eth0") for n in range(count)]


@pytest.fixture
def world():
    return World()


def test_each_owner_gets_its_own_address(world):
    assert world.fill() == ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]


def test_asking_again_gives_the_same(world):
    first = world.ledger.allocate("a@eth0", [V4, V6])
    assert world.ledger.allocate("a@eth0", [V4, V6]) == first
    assert world.ledger.stats()[0].allocations == 1


def test_asking_again_for_another_address_is_refused(world):
    world.give("a@eth0")
    refusal = world.refuse("a@eth0", asked=["10.1.0.5"])
    assert refusal.code == Code.ADDRESS_REFUSED
    assert refusal.msg == "a@eth0 already holds 10.1.0.2"


def test_asking_again_for_one_of_several_it_holds_gives_that_one(world):
    world.ledger.claim("a@eth0", [ip_address("10.1.0.2"), ip_address("10.1.0.5")])
    assert world.give("a@eth0", asked=["10.1.0.5"]) == "10.1.0.5"


def test_asking_again_of_other_pools_is_refused(world):
    world.give("a@eth0")
    assert world.refuse("a@eth0", V4, V6).code == Code.ADDRESS_REFUSED


def test_two_interfaces_of_one_container_are_two_owners(world):
    assert world.give("a@eth0") != world.give("a@net1")


# --- dual stack


def test_dual_stack_gives_one_of_each_in_the_order_of_the_pools(world):
    assert world.give("a@eth0", V6, V4) == "fd00::2 10.1.0.2"


def test_dual_stack_gives_all_or_none(world):
    world.fill()
    refusal = world.refuse("late@eth0", V6, V4)
    assert refusal.code == Code.POOL_EMPTY
    assert world.ledger.held_by("late@eth0") == ()
    assert world.ledger.owner_of(ip_address("fd00::2")) is None
    free = {stats.subnet.version: stats.free for stats in world.ledger.stats()}
    assert free == {4: 0, 6: 6}


def test_what_a_failed_request_took_from_its_cool_down_goes_back_to_it(world):
    world.fill()
    small = PoolSpec(ip_network("fd00::/127"))
    world.give("a@eth0", small)
    world.ledger.release("a@eth0")
    world.time += 10
    world.refuse("late@eth0", small, V4)
    world.time += 19
    assert world.ledger.allocate("b@eth0", [small]).early_reuse == (ip_address("fd00::1"),)


# --- cool-down


def test_a_released_address_rests_while_others_are_free(world):
    assert world.give("a@eth0", DENSE) == "10.1.0.2"
    world.ledger.release("a@eth0")
    assert world.give("b@eth0", DENSE) == "10.1.0.3"
    world.time += 30
    assert world.give("c@eth0", DENSE) == "10.1.0.2"


def test_the_longest_rested_is_reused_early_when_nothing_else_is_left_and_the_answer_says_so(world):
    world.fill()
    for owner in ("c3@eth0", "c1@eth0"):
        world.ledger.release(owner)
        world.time += 1
    answer = world.ledger.allocate("late@eth0", [V4])
    assert answer == Allocation((ip_address("10.1.0.5"),), early_reuse=(ip_address("10.1.0.5"),))
    assert world.ledger.stats()[0].early_reuses == 1


def test_releasing_twice_or_an_unknown_owner_changes_nothing(world):
    world.give("a@eth0")
    world.ledger.release("a@eth0")
    world.time += 29
    world.ledger.release("a@eth0")
    world.ledger.release("nobody@eth0")
    world.time += 1
    (stats,) = world.ledger.stats()
    assert (stats.free, stats.cooling, stats.releases) == (5, 0, 1)


def test_only_the_latest_release_counts(world):
    world.give("a@eth0", DENSE)
    world.ledger.release("a@eth0")
    world.time += 10
    world.give("b@eth0", DENSE, asked=["10.1.0.2"])
    world.time += 10
    world.ledger.release("b@eth0")
    world.time += 29
    assert world.give("c@eth0", DENSE) == "10.1.0.3"
    world.time += 1
    assert world.give("d@eth0", DENSE) == "10.1.0.2"


def test_memory_follows_what_is_held_however_often_one_address_is_asked_for(world):
    def measured_after(count):
        for _ in range(count):
            world.give("a@eth0", asked=["10.1.0.2"])
            world.ledger.release("a@eth0")
            world.time += 1
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        settled = measured_after(3000)  # the interpreter, too, keeps some freed objects at first
        later = measured_after(1000)
    finally:
        tracemalloc.stop()
    assert later - settled < 10_000


# --- an address asked for


def test_exactly_the_address_asked_for_is_given(world):
    assert world.give("a@eth0", V4, V6, asked=["fd00::5", "10.1.0.6"]) == "10.1.0.6 fd00::5"


def test_the_family_not_asked_for_chooses(world):
    assert world.give("a@eth0", V4, V6, asked=["fd00::5"]) == "10.1.0.2 fd00::5"


def test_a_cooling_address_may_be_asked_for(world):
    world.give("a@eth0", asked=["10.1.0.4"])
    world.ledger.release("a@eth0")
    assert world.ledger.allocate("b@eth0", [V4], [ip_address("10.1.0.4")]) == Allocation((ip_address("10.1.0.4"),))


def test_the_same_address_asked_for_twice_is_one_wish(world):
    assert world.give("a@eth0", asked=["10.1.0.4", "10.1.0.4"]) == "10.1.0.4"


@pytest.mark.parametrize(
    ("asked", "details"),
    [
        (["10.1.0.1"], "it is the gateway of 10.1.0.0/29"),
        (["10.1.0.7"], "it is the broadcast address of 10.1.0.0/29"),
        (["10.2.0.1"], "it is outside 10.1.0.0/29"),
        (["fd00::1"], "it belongs to no pool: the network has no IPv6 subnet"),
        (["10.1.0.3", "10.1.0.4"], "it is the second IPv4 address asked for, after 10.1.0.3"),
        (["10.1.0.2"], "it is held by other@eth0"),
        (["10.1.0.6"], "it is in use on this node: address of eth1"),
    ],
)
def test_an_address_asked_for_is_refused_with_the_reason(world, asked, details):
    world.give("other@eth0")
    world.foreign = {ip_address("10.1.0.6"): "address of eth1"}
    refusal = world.refuse("a@eth0", asked=asked)
    assert refusal.code == Code.ADDRESS_REFUSED
    assert refusal.msg == f"the address {asked[-1]} cannot be given"
    assert refusal.details == f"{details}; ask for a free address inside the subnet, or for none"


# --- an empty pool


def test_an_empty_pool_says_its_size_and_who_holds_it(world):
    world.foreign = {ip_address("10.1.0.3"): "host route via eth1"}
    world.fill(4)
    refusal = world.refuse("late@eth0")
    assert refusal.code == Code.POOL_EMPTY
    assert refusal.msg == "no address is left in 10.1.0.0/29"
    assert refusal.details == (
        "of 5 usable addresses 4 are held (10.1.0.2 by c0@eth0, 10.1.0.4 by c1@eth0, 10.1.0.5 by c2@eth0 and 1 more),"
        " 0 cooling, 1 in conflict; 10.1.0.3 is in use on this node: host route via eth1;"
        " 3 of the subnet are reserved or excluded;"
        " delete pods, exclude less, or give the node a larger subnet"
    )
    assert world.ledger.stats()[0].refusals == 1


# --- conflicts with the node


def test_an_address_the_node_has_elsewhere_is_skipped_and_reported_once(world):
    world.foreign = {ip_address("10.1.0.2"): "address of eth1"}
    answer = world.ledger.allocate("a@eth0", [DENSE])
    assert answer.addresses == (ip_address("10.1.0.3"),)
    assert answer.conflicts == (Conflict(ip_address("10.1.0.2"), "address of eth1"),)
    assert world.ledger.allocate("b@eth0", [DENSE]).conflicts == ()
    (stats,) = world.ledger.stats()
    assert (stats.conflicts, stats.conflicts_found) == (answer.conflicts, 1)


def test_an_address_the_node_gave_up_is_free_again(world):
    world.foreign = {ip_address("10.1.0.2"): "address of eth1"}
    world.give("a@eth0", DENSE)
    world.foreign = {}
    assert world.give("b@eth0", DENSE) == "10.1.0.2"
    assert world.ledger.stats()[0].conflicts == ()


def test_a_cooling_address_that_the_node_had_meanwhile_still_rests(world):
    world.fill()
    world.ledger.release("c0@eth0")
    world.foreign = {ip_address("10.1.0.2"): "address of eth1"}
    world.refuse("late@eth0")
    world.foreign = {}
    world.time += 29
    assert world.ledger.allocate("late@eth0", [V4]).early_reuse == (ip_address("10.1.0.2"),)


@pytest.mark.parametrize("how", ["asked for", "claimed", "cooled"])
def test_an_address_in_conflict_that_changes_hands_is_in_conflict_no_more(world, how):
    address = ip_address("10.1.0.2")
    world.foreign = {address: "address of eth1"}
    world.give("a@eth0", DENSE)
    world.foreign = {}
    if how == "asked for":
        world.give("b@eth0", DENSE, asked=[address])
    elif how == "claimed":
        world.ledger.claim("b@eth0", [address])
    else:
        world.ledger.cool(address, world.time)
    world.give("c@eth0", DENSE)
    (stats,) = world.ledger.stats()
    assert stats.conflicts == ()
    assert (stats.held, stats.cooling) == ((2, 1) if how == "cooled" else (3, 0))
    assert stats.free == 2


def test_a_cooling_address_taken_by_the_node_is_not_the_last_resort(world):
    world.fill()
    world.ledger.release("c0@eth0")
    world.foreign = {ip_address("10.1.0.2"): "address of eth1"}
    assert world.refuse("late@eth0").code == Code.POOL_EMPTY


# --- several pools, and owners from elsewhere


def test_overlapping_pools_never_give_one_address_twice(world):
    wide = PoolSpec(ip_network("10.1.0.0/28"), strategy=Strategy.DENSE_PACK)
    world.give("first@eth0", wide)
    given = [world.give(f"{n}@eth0", (V4, wide)[n % 2]) for n in range(4)]
    assert len({*given, "10.1.0.2"}) == 5


def test_a_delegated_address_is_not_given(world):
    assert world.ledger.claim("dhcp@eth0", [ip_address("10.1.0.2")]) == ()
    assert world.give("a@eth0") == "10.1.0.3"


def test_a_claim_on_what_another_holds_is_reported_and_not_granted(world):
    world.give("a@eth0")
    clashes = world.ledger.claim("b@eth0", [ip_address("10.1.0.2"), ip_address("fd00::9")])
    assert clashes == (Clash(ip_address("10.1.0.2"), "a@eth0"),)
    world.ledger.release("b@eth0")
    assert world.ledger.owner_of(ip_address("10.1.0.2")) == "a@eth0"


def test_a_changed_strategy_keeps_the_pool_and_its_counts(world):
    world.give("a@eth0", V4, asked=["10.1.0.4"])
    assert world.give("b@eth0", DENSE) == "10.1.0.2"
    (stats,) = world.ledger.stats()
    assert (stats.strategy, stats.held, stats.allocations) == (Strategy.DENSE_PACK, 2, 2)


# --- restart


def test_after_a_restart_the_live_keep_theirs_and_the_resting_rest(world):
    world.ledger.cool(ip_address("10.1.0.3"), world.time - 10)
    world.ledger.claim("a@eth0", [ip_address("10.1.0.2")])
    assert world.give("a@eth0", DENSE) == "10.1.0.2"
    assert world.give("b@eth0", DENSE) == "10.1.0.4"
    world.time += 20
    assert world.give("c@eth0", DENSE) == "10.1.0.3"


def test_a_record_that_is_live_outweighs_an_older_one_that_is_closed(world):
    for order in (1, -1):
        world.ledger = world.restarted()
        for replay in [
            lambda: world.ledger.cool(ip_address("10.1.0.3"), world.time - 10),
            lambda: world.ledger.claim("a@eth0", [ip_address("10.1.0.3")]),
        ][::order]:
            replay()
        world.give("b@eth0")
        (stats,) = world.ledger.stats()
        assert (stats.held, stats.cooling) == (2, 0)


def test_sequential_continues_behind_the_highest_after_a_restart(world):
    world.ledger.claim("a@eth0", [ip_address("10.1.0.4")])
    assert world.fill(4) == ["10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.3"]


def test_a_release_time_in_the_future_counts_as_now(world):
    world.ledger.cool(ip_address("10.1.0.2"), world.time + 9999)
    world.time += 30
    world.give("a@eth0")
    assert world.ledger.stats()[0].cooling == 0


def test_a_pool_that_appears_late_knows_what_rests(world):
    world.give("a@eth0", DENSE)
    world.ledger.release("a@eth0")
    world.time += 3000
    world.ledger.release("nobody@eth0")
    wide = PoolSpec(ip_network("10.1.0.0/28"), strategy=Strategy.DENSE_PACK, cooldown=3600)
    assert world.give("b@eth0", wide) == "10.1.0.3"


def test_each_address_is_counted_in_exactly_one_place(world):
    world.foreign = {ip_address("10.1.0.2"): "address of eth1"}
    world.fill(3)
    world.ledger.release("c0@eth0")
    (stats,) = world.ledger.stats()
    assert (stats.free, stats.cooling, len(stats.conflicts), stats.held, stats.reserved) == (1, 1, 1, 2, 3)
    assert stats.size == 5
    assert (stats.allocations, stats.releases) == (3, 1)


def test_an_address_that_two_records_have_stays_taken_until_both_are_gone(world):
    shared = ip_address("10.1.0.2")
    world.ledger.claim("p@eth0", [shared])
    assert world.ledger.claim("q@eth0", [shared]) == (Clash(shared, "p@eth0"),)
    world.ledger.share("q@eth0", shared)
    world.ledger.release("p@eth0")
    assert world.ledger.owner_of(shared) == "q@eth0"
    world.ledger.release("q@eth0")
    assert world.ledger.owner_of(shared) is None
