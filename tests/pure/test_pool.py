"""Which addresses a pool may give, and which descriptions of a pool are refused."""

import random
import tracemalloc
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ipam.pool import PoolSpec, Strategy, Usable, pool_problems
from reconciler.ipam.strategies import DensePack, Sequential, Shuffled, make_order


def spec(subnet, **fields):
    for name in ("gateway", "range_start", "range_end"):
        if name in fields:
            fields[name] = ip_address(fields[name])
    if "exclude" in fields:
        fields["exclude"] = tuple(map(ip_network, fields["exclude"]))
    return PoolSpec(ip_network(subnet), **fields)


def usable(pool):
    numbers = Usable(pool)
    return [str(numbers.address(rank)) for rank in range(numbers.size)]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (spec("10.1.0.0/29"), ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]),
        (spec("10.1.0.0/29", gateway="10.1.0.6"), ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"]),
        (spec("10.1.0.0/29", exclude=["10.1.0.4/31"]), ["10.1.0.2", "10.1.0.3", "10.1.0.6"]),
        (spec("10.1.0.0/29", range_start="10.1.0.3", range_end="10.1.0.4"), ["10.1.0.3", "10.1.0.4"]),
        (spec("10.1.0.0/31"), ["10.1.0.1"]),
        (spec("10.1.0.0/31", gateway="10.1.0.1"), ["10.1.0.0"]),
        (spec("10.1.0.0/32"), []),
        (spec("fd00::/126"), ["fd00::2", "fd00::3"]),
        (spec("fd00::/127"), ["fd00::1"]),
        (spec("10.1.0.0/29", exclude=["fd00::/64"]), ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]),
        (spec("10.1.0.0/29", range_start="10.0.0.0", range_end="10.1.0.2"), ["10.1.0.2"]),
    ],
    ids=lambda value: str(value.subnet) if isinstance(value, PoolSpec) else "",
)
def test_a_pool_gives_no_reserved_address(pool, expected):
    assert usable(pool) == expected


small_nets = st.integers(24, 32).flatmap(
    lambda prefix: st.integers(0, 2 ** (prefix - 24) - 1).map(
        lambda block: ip_network((int(IPv4Address("10.9.9.0")) + (block << (32 - prefix)), prefix))
    )
)
addresses = st.integers(0, 255).map(lambda low: IPv4Address("10.9.9.0") + low)


maybe = st.none() | addresses


@given(small_nets, maybe, maybe, maybe, st.lists(small_nets, max_size=3))
def test_numbering_agrees_with_asking_each_address(subnet, gateway, start, end, exclude):
    pool = PoolSpec(subnet, gateway, start, end, tuple(exclude))
    numbers = Usable(pool)
    expected = [address for address in subnet if pool.why_not(address) is None]
    assert [numbers.address(rank) for rank in range(numbers.size)] == expected
    ranks = {address: numbers.rank(address) for address in ip_network("10.9.9.0/24")}
    assert {address: rank for address, rank in ranks.items() if rank is not None} == {
        address: rank for rank, address in enumerate(expected)
    }


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.1.0.0", "is the network address of 10.1.0.0/24"),
        ("10.1.0.1", "is the gateway of 10.1.0.0/24"),
        ("10.1.0.255", "is the broadcast address of 10.1.0.0/24"),
        ("10.1.0.9", "is excluded (ipam.exclude 10.1.0.8/30), a part of 10.1.0.0/24"),
        ("10.1.0.201", "is outside the range 10.1.0.0 to 10.1.0.200"),
        ("10.2.0.1", "is outside 10.1.0.0/24"),
        ("fd00::1", "is outside 10.1.0.0/24"),
        ("10.1.0.12", None),
    ],
)
def test_a_pool_says_why_an_address_is_not_given(address, reason):
    pool = spec("10.1.0.0/24", exclude=["10.1.0.8/30"], range_end="10.1.0.200")
    assert pool.why_not(ip_address(address)) == reason


def test_the_anycast_address_of_ipv6_is_named():
    assert spec("fd00::/64").why_not(ip_address("fd00::")) == "is the subnet-router anycast address of fd00::/64"


def test_behaviour_is_no_part_of_identity():
    one = spec("10.1.0.0/24", strategy=Strategy.RANDOM, cooldown=5)
    assert one == spec("10.1.0.0/24")
    assert hash(one) == hash(spec("10.1.0.0/24"))
    assert one != spec("10.1.0.0/24", range_end="10.1.0.9")


@pytest.mark.parametrize(
    ("pool", "problem"),
    [
        (
            spec("10.1.0.0/32"),
            "ipam.subnet: 10.1.0.0/32 has no room for a gateway and a pod; the smallest subnet is a /31",
        ),
        (
            spec("fd00::/128"),
            "ipam.subnet: fd00::/128 has no room for a gateway and a pod; the smallest subnet is a /127",
        ),
        (
            spec("10.1.0.0/24", gateway="10.2.0.1"),
            "ipam.gateway: 10.2.0.1 is outside ipam.subnet 10.1.0.0/24; choose one inside it, or none",
        ),
        (
            spec("10.1.0.0/24", gateway="10.1.0.255"),
            "ipam.gateway: 10.1.0.255 is an edge of ipam.subnet 10.1.0.0/24 that no host may have;"
            " choose another, or none",
        ),
        (
            spec("10.1.0.0/24", range_start="10.1.0.9", range_end="10.1.0.3"),
            "ipam.rangeStart: 10.1.0.9 comes after ipam.rangeEnd 10.1.0.3; exchange them",
        ),
        (
            spec("10.1.0.0/24", range_start="10.0.0.9"),
            "ipam.rangeStart: 10.0.0.9 is outside ipam.subnet 10.1.0.0/24; choose one inside it, or none",
        ),
        (
            spec("10.1.0.0/24", range_end="fd00::9"),
            "ipam.rangeEnd: fd00::9 is outside ipam.subnet 10.1.0.0/24; choose one inside it, or none",
        ),
        (
            spec("10.1.0.0/30", exclude=["10.1.0.2/32"]),
            "ipam.exclude: 10.1.0.2/32 leaves nothing to give of 10.1.0.0 to 10.1.0.3; exclude less",
        ),
        (
            spec("10.1.0.0/24", range_end="10.1.0.1"),
            "ipam.rangeStart, ipam.rangeEnd: 10.1.0.0 to 10.1.0.1 are all reserved in 10.1.0.0/24; widen the range",
        ),
        (
            spec("10.1.0.0/24", cooldown=-1),
            "ipam.cooldown: -1 is not within 0 and 3600 seconds; the usual value is 30",
        ),
        (
            spec("10.1.0.0/24", cooldown=float("nan")),
            "ipam.cooldown: nan is not within 0 and 3600 seconds; the usual value is 30",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_each_problem_names_field_value_and_cure(pool, problem):
    assert pool_problems([pool]) == [problem]


def test_pools_of_one_network_must_not_overlap():
    problem = "ipam.subnet: 10.1.0.0/16 and 10.1.2.0/24 overlap; give each pool of a network its own subnet"
    assert pool_problems([spec("10.1.0.0/16"), spec("fd00::/64"), spec("10.1.2.0/24")]) == [problem]


def test_all_problems_are_told_at_once():
    bad = spec("10.1.0.0/24", gateway="10.2.0.1", range_start="10.1.0.9", range_end="10.1.0.3", cooldown=-1)
    assert len(pool_problems([bad])) == 3


@pytest.mark.parametrize("pool", [spec("10.1.0.0/31"), spec("10.0.0.0/8"), spec("fd00::/127"), spec("::/0")])
def test_a_sound_pool_has_no_problems(pool):
    assert pool_problems([pool]) == []


# --- the order in which numbers are given


def test_sequential_goes_round_before_it_reuses():
    order = Sequential(4, [])
    assert [order.take(), order.take()] == [0, 1]
    order.put(1)
    order.put(0)
    assert [order.take() for _ in range(4)] == [2, 3, 1, 0]


def test_sequential_continues_after_the_highest_at_restart_then_finds_the_holes():
    order = Sequential(6, [3, 1])
    order.put(3)
    assert [order.take() for _ in range(5)] == [4, 5, 0, 2, 3]


def test_sequential_loses_nothing_that_it_forgets(monkeypatch):
    monkeypatch.setattr(Sequential, "MEMORY", 8)
    order = Sequential(40, [])
    for _ in range(30):
        order.put(order.take())
    assert sorted(order.take() for _ in range(order.free)) == list(range(40))


def test_dense_pack_gives_the_lowest():
    order = DensePack(10, [])
    assert [order.take() for _ in range(5)] == [0, 1, 2, 3, 4]
    order.remove(7)
    for number in (3, 1, 7):
        order.put(number)
    order.remove(1)
    assert [order.take() for _ in range(4)] == [3, 5, 6, 7]
    order.put(1)
    order.remove(1)
    order.put(1)
    assert [order.take(), order.take()] == [1, 8]


def test_random_is_uniform_over_what_is_free():
    order = Shuffled(10, range(0, 10, 2), random.Random(1))
    seen = dict.fromkeys((1, 3, 5, 7, 9), 0)
    for _ in range(5000):
        number = order.take()
        seen[number] += 1
        order.put(number)
    assert all(900 < count < 1100 for count in seen.values())


def test_random_stores_at_most_two_entries_for_each_number_taken():
    rng = random.Random(1)
    order, held = Shuffled(1000, [], rng), []
    for _ in range(20_000):
        if not held or (order.free and rng.random() < 0.5):
            held.append(order.take())
        else:
            order.put(held.pop(rng.randrange(len(held))))
        assert len(order._at) <= 2 * len(held)


@given(st.sampled_from(Strategy), st.sets(st.integers(0, 11)), st.lists(st.integers(-1, 11)), st.integers())
def test_every_strategy_keeps_exactly_the_free_numbers(strategy, taken, steps, seed):
    """-1 takes; any other number is put back if it is taken, and removed if it is free."""
    order, free = make_order(strategy, 12, taken, random.Random(seed)), set(range(12)) - taken
    for number in steps:
        if number < 0 and free:
            free.remove(order.take())
        elif number in free:
            order.remove(number)
            free.remove(number)
        elif number >= 0:
            order.put(number)
            free.add(number)
        assert order.free == len(free)
        assert {each for each in range(12) if order.is_free(each)} == free
    assert sorted(order.take() for _ in range(len(free))) == sorted(free)


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("bits", [24, 64, 127])
def test_memory_follows_what_is_held_not_the_pool_nor_the_past(strategy, bits, monkeypatch):
    monkeypatch.setattr(Sequential, "MEMORY", 256)
    tracemalloc.start()
    try:
        order = make_order(strategy, 2**bits, [], random.Random(1))
        held = [order.take() for _ in range(100)]
        for _ in range(20_000):
            order.put(held.pop(0))
            held.append(order.take())
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 100_000
