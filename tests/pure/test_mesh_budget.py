"""So many times within so many seconds."""

import pytest

from reconciler.mesh.budget import Budget


def test_no_more_than_so_many_within_the_time_wherever_it_begins():
    budget = Budget(3, 600)
    taken = [now for now in range(0, 3000, 50) if budget.take(now)]
    assert taken == [0, 50, 100, 600, 650, 700, 1200, 1250, 1300, 1800, 1850, 1900, 2400, 2450, 2500]


def test_asking_does_not_spend():
    budget = Budget(1, 600)
    assert not budget.exhausted(0)
    assert budget.take(0)
    assert budget.exhausted(599.9)
    assert not budget.exhausted(600)


def test_what_was_refused_does_not_count():
    budget = Budget(1, 600)
    assert budget.take(0)
    assert not any(budget.take(now) for now in range(1, 600))
    assert budget.take(600)


def test_a_reset_gives_all_back():
    budget = Budget(2, 600)
    assert budget.take(0)
    assert budget.take(0)
    budget.reset()
    assert [budget.take(1) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("now", [0, 1e9])
def test_none_at_all(now):
    assert not Budget(0, 600).take(now)
