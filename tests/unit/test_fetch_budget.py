"""The budget of bytes: bound, wake-ups, and no deadlock."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from penstock.fetch.budget import ByteBudget

NOTHING: Callable[[], None] = lambda: None  # noqa: E731 - one object, by which a waiter is known


class Flag:
    """Counts its calls; an attempt in the eyes of the budget."""

    def __init__(self) -> None:
        self.calls = 0

    def wake(self) -> None:
        self.calls += 1


def test_admission_by_room() -> None:
    """An attempt begins if its guess fits; who is refused is told when it would."""
    budget, door = ByteBudget(100), Flag()
    assert budget.admit(60, door.wake)
    assert not budget.admit(60, door.wake)
    budget.drop(60)
    assert (door.calls, budget.used) == (1, 0)
    assert budget.admit(60, door.wake)


def test_the_first_one_always_begins() -> None:
    """With nobody inside, a guess larger than the limit is admitted."""
    assert ByteBudget(100).admit(1000, NOTHING)


def test_growth_waits_for_room() -> None:
    """A correction that does not fit is granted by the next release, in the order of asking."""
    budget, first, second = ByteBudget(100), Flag(), Flag()
    budget.reserve(50)
    assert budget.admit(20, NOTHING)
    assert budget.admit(20, NOTHING)
    assert not budget.grow(30, first.wake)
    assert not budget.grow(10, second.wake), "nobody overtakes"
    budget.release(50)
    assert (first.calls, second.calls, budget.used) == (1, 1, 80)


def test_when_everybody_waits_the_oldest_goes_on() -> None:
    """No deadlock; and the one who was let through keeps its right, so that one body is over the bound and not many."""
    budget, first, second = ByteBudget(100), Flag(), Flag()
    assert budget.admit(50, NOTHING)
    assert budget.admit(50, NOTHING)
    assert not budget.grow(30, first.wake)
    assert not budget.grow(30, second.wake)
    assert (first.calls, second.calls) == (1, 0)
    assert budget.grow(500, first.wake)
    assert (first.calls, second.calls, budget.used) == (1, 0, 630)
    budget.keep()
    assert second.calls == 1, "the first has its bytes and no row to be released: the second is the only hope"


def test_a_lonely_waiter_is_granted_in_the_same_call() -> None:
    """True, and no wake-up."""
    budget, only = ByteBudget(100), Flag()
    assert budget.admit(50, NOTHING)
    assert budget.grow(500, only.wake)
    assert only.calls == 0


def test_delivered_rows_are_waited_for() -> None:
    """While the crew holds bytes that it will give back, nobody passes the bound."""
    budget, waiter = ByteBudget(100), Flag()
    budget.reserve(90)
    assert budget.admit(10, NOTHING)
    assert not budget.grow(50, waiter.wake)
    assert waiter.calls == 0
    budget.release(90)
    assert (waiter.calls, budget.used) == (1, 60)


def test_cancel_tells_whether_it_was_granted() -> None:
    """A cancelled correction reserves nothing; one granted in the meantime stays reserved."""
    budget, waiter = ByteBudget(100), Flag()
    budget.reserve(90)
    assert budget.admit(10, NOTHING)
    assert not budget.grow(50, waiter.wake)
    assert budget.cancel(waiter.wake)
    assert budget.used == 100
    assert not budget.grow(50, waiter.wake)
    budget.release(90)
    assert not budget.cancel(waiter.wake)
    assert budget.used == 60


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(1, 200), st.randoms(use_true_random=False))
def test_any_order_ends(sizes: list[int], limit: int, random: object) -> None:
    """Bodies that grow in steps, in any order, all end; the bound is passed by one body at most."""
    budget = ByteBudget(limit)
    done = 0
    waiting: list[int] = list(sizes)
    running: dict[int, list[int]] = {}  # id: [size, reserved, blocked]
    wakes: dict[int, Callable[[], None]] = {}
    while waiting or running:
        if waiting and budget.admit(10, NOTHING):
            number = len(sizes) - len(waiting)
            running[number] = [waiting.pop(0), 10, 0]
            wakes[number] = lambda number=number: running[number].__setitem__(2, 0)  # type: ignore[misc]
        free = [number for number, state in running.items() if not state[2]]
        assert free, "deadlock"
        number = random.choice(free)  # type: ignore[attr-defined]
        size, reserved, _ = running[number]
        if reserved < size:
            running[number][1] += 50
            running[number][2] = 1
            if budget.grow(50, wakes[number]):
                running[number][2] = 0
        else:
            del running[number]
            budget.reserve(0)
            budget.keep(size - reserved)
            budget.release(size)
            done += 1
        assert budget.used <= limit + 350
    assert (budget.used, done) == (0, len(sizes))
