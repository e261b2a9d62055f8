"""Names of closed attachments, and which are forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import CONTAINER, in_state, requested

from statemachine.attachment import State
from statemachine.history import DAY, HistoryName, history_name, parse_name, to_prune

NOW = 1795260754.5


def name(closed, key="abc@eth0"):
    container, _, ifname = key.partition("@")
    return history_name(requested(since=closed, container=container, ifname=ifname))


def test_the_name_tells_when_and_what():
    assert name(1795260754.123456) == "20261121T113234.123456Z-abc@eth0.json"
    assert parse_name("20261121T113234.123456Z-abc@eth0.json") == HistoryName(1795260754.123456, "abc@eth0")


def test_a_close_that_was_killed_is_repeated_under_the_same_name():
    closed = in_state(State.TORN_DOWN)
    assert history_name(closed) == history_name(in_state(State.TORN_DOWN))
    assert history_name(closed).endswith(f"-{CONTAINER}@eth0.json")


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_names_sort_as_their_times_and_are_read_back(one, other):
    assert parse_name(name(one)).closed == pytest.approx(one, abs=2e-6)
    if one + 2e-6 < other:
        assert name(one) < name(other)


@pytest.mark.parametrize(
    "file",
    [
        "",
        "abc@eth0.json",
        "20261121T113234.123456Z-abc.json",
        "20261121T113234Z-abc@eth0.json",
        "20261321T113234.123456Z-abc@eth0.json",
        "20261121T113234.123456Z-abc@eth0.json.tmp",
        "20261121T113234.123456Z-../x@eth0.json",
    ],
)
def test_other_files_are_none_of_ours(file):
    assert parse_name(file) is None


def test_the_oldest_are_forgotten_first_whatever_the_order_of_the_listing():
    names = [name(NOW - age) for age in (10, 30, 20, 40)]
    assert to_prune(names, NOW, max_records=2, max_days=30) == [name(NOW - 40), name(NOW - 30)]


def test_the_too_old_are_forgotten_although_there_is_room():
    names = [name(NOW - 31 * DAY), name(NOW - 29 * DAY)]
    assert to_prune(names, NOW, max_records=10, max_days=30) == [name(NOW - 31 * DAY)]


def test_nothing_is_forgotten_within_both_bounds():
    assert to_prune([name(NOW - 1), name(NOW)], NOW, max_records=2, max_days=1) == []
    assert to_prune([], NOW, max_records=0, max_days=0) == []


def test_foreign_files_are_neither_counted_nor_forgotten():
    names = ["README", "0-abc@eth0.json", name(NOW)]
    assert to_prune(names, NOW, max_records=1, max_days=30) == []


def test_a_clock_before_1970_or_a_bound_before_it_is_no_trouble():
    assert name(-5.0).startswith("19700101T000000")
    assert to_prune([name(1.0)], 10.0, max_records=10, max_days=30) == []


@given(st.lists(st.floats(0, 4e9), unique=True, max_size=30), st.integers(0, 40), st.integers(0, 40))
def test_what_is_kept_is_newer_than_what_is_forgotten(times, max_records, max_days):
    names = {name(at) for at in times}
    forgotten = to_prune(names, 2e9, max_records, max_days)
    kept = names - set(forgotten)
    assert len(kept) <= max_records
    assert not kept or not forgotten or max(forgotten) < min(kept)
