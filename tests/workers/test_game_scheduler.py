"""The scheduler of game indices: whatever happens to workers, every index is finished once and held by one at a
time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from grove.workers.selfplay.game_scheduler import GameScheduler, share

WORKERS = 5
workers = st.integers(0, WORKERS - 1)


class Workers(RuleBasedStateMachine):
    """Workers that take, finish, die and come back, in any order; a plain model keeps the truth."""

    @initialize(start=st.integers(0, 50), count=st.integers(1, 40), done=st.sets(st.integers(0, 100), max_size=30))
    def open(self, start: int, count: int, done: set[int]) -> None:
        self.wanted = range(start, start + count)
        self.scheduler = GameScheduler(self.wanted, done)
        self.done = done & set(self.wanted)
        self.held: list[set[int]] = [set() for _ in range(WORKERS)]

    @rule(worker=workers, count=st.integers(0, 12))
    def hand_out(self, worker: int, count: int) -> None:
        free = set(self.wanted) - self.done - set().union(*self.held)
        given_out = self.scheduler.hand_out(worker, count)
        assert set(given_out) == set(sorted(free)[:count])  # lowest first, nothing twice
        assert len(given_out) == len(set(given_out))
        self.held[worker] |= set(given_out)

    @rule(worker=workers, data=st.data())
    def finish(self, worker: int, data: st.DataObject) -> None:
        some = data.draw(st.sets(st.sampled_from(sorted(self.held[worker])))) if self.held[worker] else set()
        self.scheduler.finish(worker, sorted(some))
        self.held[worker] -= some
        self.done |= some

    @rule(worker=workers)
    def finish_again(self, worker: int) -> None:
        """A worker's log is read once more after its death: games that were booked already change nothing."""
        self.scheduler.finish(worker, sorted(self.done))

    @rule(worker=workers)
    def die(self, worker: int) -> None:
        assert self.scheduler.lose(worker) == len(self.held[worker])
        self.held[worker] = set()

    @precondition(lambda self: self.scheduler.unassigned)
    @rule(worker=workers)
    def somebody_always_gets_what_is_left(self, worker: int) -> None:
        assert self.scheduler.hand_out(worker, 1)
        assert self.scheduler.lose(worker) == len(self.held[worker]) + 1
        self.held[worker] = set()

    @invariant()
    def counts_agree(self) -> None:
        assert self.scheduler.finished == len(self.done)
        assert self.scheduler.left == len(self.wanted) - len(self.done)
        assert self.scheduler.unassigned == self.scheduler.left - sum(map(len, self.held))
        assert [self.scheduler.held_by(worker) for worker in range(WORKERS)] == [len(held) for held in self.held]


TestWorkers = Workers.TestCase


@given(games=st.integers(1, 300), count=st.integers(1, 12), capacity=st.integers(1, 20), data=st.data())
def test_a_run_with_deaths_finishes_every_index_once(
    games: int, count: int, capacity: int, data: st.DataObject
) -> None:
    scheduler = GameScheduler(range(games))
    held: list[list[int]] = [[] for _ in range(count)]
    finished: list[int] = []
    deaths = data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    while scheduler.left:
        for worker in range(count):
            held[worker] += scheduler.hand_out(worker, share(scheduler, count, capacity, len(held[worker])))
            # In progress: at most the worker's capacity, and all together never more than the games that are left.
            assert sum(min(len(part), capacity) for part in held) <= scheduler.left
            assert len(held[worker]) <= capacity + max(2, capacity // 8)
        assert any(held), "somebody must play"
        if deaths:
            dead = deaths.pop()
            scheduler.lose(dead)
            held[dead] = []
        for worker in range(count):
            over, held[worker] = held[worker][: capacity // 2 + 1], held[worker][capacity // 2 + 1 :]
            scheduler.finish(worker, over)
            finished += over
    assert sorted(finished) == list(range(games))


def test_games_done_elsewhere_do_not_count() -> None:
    scheduler = GameScheduler(range(10, 15), [3, 11, 12, 99])
    assert (scheduler.finished, scheduler.left) == (2, 3)
    assert scheduler.hand_out(0, 9) == [10, 13, 14]
