"""The script: what Redis counts for all. Driven with times of the test's own, on a real server."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lc_service.limits.shared import courier

SCRIPT = Path(courier.__file__).with_name("script.lua").read_text(encoding="utf-8")
NOTHING = ("", "", "", "", "", "", "", "")
RATE, BURST = 10.0, 5.0
START = 1_000.0
few = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Turn:
    at: float
    epoch: float
    pause: float
    is_given: bool
    wait: float
    position: tuple[float, float]
    units: tuple[float, float]

    @property
    def due_at(self) -> float:
        return self.at + self.wait


@dataclass
class State:
    """One state in Redis, asked at times that the test says."""

    client: Any
    key: str = field(default_factory=lambda: f"test:{uuid.uuid4().hex}")
    rates: tuple[Any, Any, Any, Any] = (RATE, BURST, "", "")

    def step(self, name: str, *arguments: Any, at: Any = START) -> list[float]:
        return [float(one) for one in self.client.eval(SCRIPT, 1, self.key, name, at, *arguments)]

    def take(
        self,
        requests: float = 1.0,
        tokens: float = 0.0,
        *,
        at: Any = START,
        is_retry: bool = False,
        place: Any = ("",),
    ) -> Turn:
        rate, burst, token_rate, token_burst = self.rates
        asked = (int(is_retry), requests, rate, burst, tokens, token_rate, token_burst, *place)
        return self._turn(self.step("take", *asked, at=at), (requests, tokens))

    def look(self, turn: Turn, *, at: float, is_retry: bool = False, epoch: float | None = None) -> Turn:
        asked = (epoch or turn.epoch, int(is_retry), *turn.position, *turn.units)
        return self._turn(self.step("look", *asked, at=at), turn.units)

    def undo(self, turn: Turn, *, at: float = START) -> None:
        self.step("undo", turn.epoch, *turn.units, at=at)

    def _turn(self, said: list[float], units: tuple[float, float]) -> Turn:
        now, epoch, pause, is_given, wait, *position = said
        return Turn(now, epoch, pause, bool(is_given), wait, (position[0], position[1]), units)


@pytest.fixture
def state(client: Any) -> State:
    return State(client)


# --- rates


def test_a_burst_goes_at_once_and_the_rest_at_the_rate(state: State) -> None:
    waits = [state.take().wait for _ in range(8)]
    assert waits == pytest.approx([0, 0, 0, 0, 0, 0.1, 0.2, 0.3])


def test_requests_and_tokens_are_taken_in_one_step(state: State) -> None:
    state.rates = (1_000.0, 1_000.0, 100.0, 100.0)
    assert state.take(tokens=100).wait == 0
    assert state.take(tokens=50).wait == pytest.approx(0.5)
    assert state.take(tokens=0).wait == pytest.approx(0.5), "nothing small passes a large one"


def test_more_than_a_burst_goes_when_the_burst_is_whole(state: State) -> None:
    state.rates = ("", "", 10.0, 5.0)
    assert state.take(tokens=50).wait == 0
    assert state.take(tokens=50, at=START + 4.5).wait == pytest.approx(0.5)


@few
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "take", "take", "undo", "look"]), st.integers(1, 5), st.floats(0, 0.7)
        ),
        min_size=1,
        max_size=40,
    )
)
def test_no_span_sees_more_than_burst_and_rate(client: Any, said: list[tuple[str, int, float]]) -> None:
    state, now, standing, undone = State(client), START, [], 0.0
    for step, units, seconds in said:
        now += seconds
        if step == "take":
            standing.append(state.take(units, at=now))
        elif step == "undo" and standing:
            turn = standing.pop(units % len(standing))
            state.undo(turn, at=now)
            undone += turn.units[
                0
            ]  # turns that were given after it are not made earlier: one of later may be
        elif step == "look" and standing:
            place = units % len(standing)
            if standing[place].due_at > now:  # one whose time has come does not look
                standing[place] = state.look(standing[place], at=now)
    turns = sorted((turn.due_at, turn.units[0]) for turn in standing)
    for first, (begin, _) in enumerate(turns):
        total = 0.0
        for due_at, units in turns[first:]:
            total += units
            assert total <= BURST + undone + RATE * (due_at - begin) + 1e-3


@few
@given(
    st.lists(st.tuples(st.integers(1, 5), st.floats(0, 0.7)), max_size=10),
    st.lists(st.tuples(st.integers(1, 5), st.floats(0, 0.7)), min_size=1, max_size=10),
)
def test_an_undone_turn_leaves_no_trace(
    client: Any, before: list[tuple[int, float]], undone: list[tuple[int, float]]
) -> None:
    state, other, now = State(client), State(client), START
    for units, seconds in before:
        now += seconds
        assert state.take(units, at=now).wait == pytest.approx(other.take(units, at=now).wait)
    turns = [other.take(units, at=now) for units, _ in undone]
    for turn, (_, seconds) in zip(turns, undone, strict=True):
        other.undo(turn, at=now)
        now += seconds
    assert other.take(3, at=now).wait >= state.take(3, at=now).wait - 1e-6, "undoing gives nothing away"
    now += 10  # all is full again
    waits = [(state.take(at=now).wait, other.take(at=now).wait) for _ in range(12)]
    assert waits == [pytest.approx((each, each)) for each, _ in waits]


def test_a_turn_comes_nearer_when_one_before_it_is_undone_at_once(state: State) -> None:
    turns = [state.take() for _ in range(8)]
    state.undo(turns[7])
    assert state.take().wait == pytest.approx(turns[7].wait)


def test_a_look_sees_a_higher_limit_and_keeps_its_place(state: State) -> None:
    turns = [state.take() for _ in range(15)]
    told = (1_000.0, turns[-1].position[0], 100.0, 100.0, 1.0, 1.0, 100.0, 100.0)
    assert turns[9].wait == pytest.approx(0.5)
    state.step("see", turns[0].epoch, START, *told, *NOTHING)
    assert state.look(turns[9], at=START).wait == pytest.approx(0.05)
    assert state.look(turns[14], at=START).wait == pytest.approx(0.1)


def test_unused_tokens_come_back_only_where_no_headers_tell_them(state: State) -> None:
    state.rates = ("", "", 10.0, 100.0)
    turn = state.take(tokens=100)
    state.step("give_back", turn.epoch, 60.0)
    assert state.take(tokens=60).wait == 0
    state.step("give_back", turn.epoch, 1e9)
    assert state.take(tokens=100).wait == 0
    assert state.take(tokens=100).wait == pytest.approx(10.0), "never more than is full"
    told = (0.0, 260.0, 10.0, 100.0, 0.0, 1.0, 10.0, 100.0)
    state.step("see", turn.epoch, START, *NOTHING, *told)
    before = state.take(tokens=1).wait
    state.step("give_back", turn.epoch, 50.0)
    assert state.take(tokens=0).wait >= before


# --- what headers tell


def test_the_servers_level_goes_down_by_any_answer(state: State) -> None:
    state.rates = ("", "", "", "")
    first = state.take()
    assert state.take().wait == 0
    told = (2.0, first.position[0], 10.0, 100.0, 0.0, 1.0, 1_000.0, 1_000.0)
    state.step("see", first.epoch, START, *told, *NOTHING)
    assert state.take().wait == 0, "2 were left, and one of them was sent since"
    assert state.take().wait == pytest.approx(0.1)


def test_the_servers_level_goes_up_by_what_all_agree_on(state: State) -> None:
    state.rates = ("", "", "", "")
    turn = state.take()
    epoch, position = turn.epoch, turn.position[0]

    def see(remaining: float, at: float) -> None:
        state.step("see", epoch, at, remaining, position, 1.0, 100.0, 0.0, 1.0, 1e6, 1e6, *NOTHING, at=at)

    see(0.0, START)
    see(50.0, START + 0.1)
    assert state.take(at=START + 0.1).wait == pytest.approx(0.9), "one answer may have overtaken another"
    position = 2.0
    see(50.0, START + 0.3)
    assert state.take(at=START + 0.3).wait == 0


def test_an_answer_to_what_was_sent_before_an_undo_raises_nothing(state: State) -> None:
    state.rates = ("", "", "", "")
    kept, undone, late = state.take(), state.take(), state.take()
    state.step("see", kept.epoch, START, 0.0, 3.0, 1.0, 100.0, 0.0, 1.0, 1e6, 1e6, *NOTHING)
    state.undo(undone, at=START + 0.5)
    for at in (START + 0.6, START + 0.9):
        told = (50.0, late.position[0], 1.0, 100.0, 0.0, 1.0, 1e6, 1e6)
        state.step("see", kept.epoch, START + 0.4, *told, *NOTHING, at=at)
    waits = [state.take(at=START + 0.9).wait for _ in range(3)]
    assert waits == pytest.approx([0, 0.1, 1.1]), "0 were left, 1 was given back and 0.9 came back"


def test_what_was_rejected_is_off_the_pace_and_not_off_the_servers_level(state: State) -> None:
    state.rates = ("", "", "", "")
    turn = state.take()
    state.step("see", turn.epoch, START, 3.0, 1.0, 1.0, 100.0, 0.0, 1.0, 10.0, 2.0, *NOTHING)
    rejected = state.take()
    state.step("reject", rejected.epoch, *rejected.units)
    waits = [state.take(is_retry=True).wait for _ in range(4)]
    assert waits == pytest.approx([0.1, 0.2, 0.3, 1.0]), "3 are left there, and the pace had one to let go"


def test_what_is_counted_and_never_sent_counts_as_sent_after_a_while(state: State) -> None:
    turns = [state.take() for _ in range(4)]
    assert state.step("send", turns[0].epoch, 1.0, 0.0)[3:] == [1, 0]
    assert state.step("send", turns[0].epoch, 1.0, 0.0, at=START + 1)[3] == pytest.approx(2.1, abs=0.05)
    state.step("undo", turns[3].epoch, 1.0, 0.0, at=START + 1)
    assert state.step("send", turns[0].epoch, 0.0, 0.0, at=START + 300)[3] == pytest.approx(3.0, abs=0.01)
    assert state.step("send", turns[0].epoch, 5.0, 0.0, at=START + 300)[3] == 3, "never more than was counted"


def test_what_was_told_of_another_state_counts_for_nothing(state: State) -> None:
    turn = state.take()
    state.client.delete(state.key)
    assert state.take(at=START + 1).epoch != turn.epoch
    state.step("see", turn.epoch, START, 0.0, 1.0, 0.1, 1.0, 0.0, 1.0, 0.1, 1.0, *NOTHING, at=START + 1)
    state.undo(turn, at=START + 1)
    assert [state.take(at=START + 1).wait for _ in range(5)] == pytest.approx([0, 0, 0, 0, 0.1])


def test_a_turn_of_a_lost_state_is_refused_a_look(state: State) -> None:
    turn = [state.take() for _ in range(50)][-1]
    state.client.delete(state.key)
    assert not state.look(turn, at=START + 1).is_given
    assert state.take(at=START + 1).wait == 0


# --- pauses


def test_a_pause_holds_all_but_retries_until_it_ends(state: State) -> None:
    state.step("pause", START, 3.0)
    assert state.take().wait == pytest.approx(3.0)
    assert state.take().pause == pytest.approx(3.0)
    assert state.take(is_retry=True).wait == 0
    assert state.take(at=START + 3).wait == 0


def test_a_shorter_pause_does_not_end_a_longer_one(state: State) -> None:
    state.step("pause", START, 3.0)
    state.step("pause", START - 1, 1.0)
    state.step("prove", START)
    assert state.take().wait == pytest.approx(3.0)


def test_a_pause_ends_by_what_was_sent_after_the_one_that_was_told_it(state: State) -> None:
    state.step("pause", START, 3.0)
    state.step("prove", START + 0.01, at=START + 1)
    assert state.take(at=START + 1).wait == pytest.approx(2.0), "it may have overtaken"
    state.step("prove", START + 0.1, at=START + 1)
    assert state.take(at=START + 1).wait == 0


# --- places


def place(process: str, held: int = 0, *, most: int = 2, lease: float = 60.0, is_urgent: bool = False) -> Any:
    return most, process, held, lease, int(is_urgent)


@pytest.fixture
def places(client: Any) -> State:
    return State(client, rates=("", "", "", ""))


def test_no_more_than_the_most_have_places(places: State) -> None:
    assert places.take(place=place("a")).is_given
    assert places.take(place=place("b")).is_given
    assert not places.take(place=place("b", held=1)).is_given
    places.step("hold", "a", 0, 60.0)
    assert places.take(place=place("b", held=1)).is_given


def test_a_refused_turn_counts_nothing(places: State) -> None:
    places.rates = (RATE, BURST, "", "")
    for _ in range(20):
        places.take(place=place("a", most=0))
    assert places.take(place=place("a")).position[0] == 1


def test_a_process_that_says_nothing_loses_its_places(places: State) -> None:
    assert places.take(place=place("a", held=1, lease=5.0)).is_given
    assert not places.take(place=place("b"), at=START + 4.9).is_given
    assert places.take(place=place("b"), at=START + 5.1).is_given


def test_a_process_that_renews_keeps_them(places: State) -> None:
    places.take(place=place("a", held=1, lease=5.0))
    places.step("hold", "a", 2, 5.0, at=START + 4)
    assert not places.take(place=place("b"), at=START + 8).is_given


def test_places_go_in_the_order_of_asking(places: State) -> None:
    places.take(place=place("a", held=1))
    assert not places.take(place=place("b")).is_given
    assert not places.take(place=place("c")).is_given
    places.step("hold", "a", 1, 60.0)
    assert not places.take(place=place("c")).is_given, "b asked before"
    assert places.take(place=place("b")).is_given
    places.step("hold", "a", 0, 60.0)
    assert places.take(place=place("c")).is_given


def test_whoever_stops_asking_loses_its_turn(places: State) -> None:
    places.take(place=place("a", held=1))
    assert not places.take(place=place("b")).is_given
    places.step("hold", "a", 1, 60.0, at=START + 3)
    assert places.take(place=place("c"), at=START + 3).is_given


def test_one_that_others_wait_for_needs_no_place_and_is_counted(places: State) -> None:
    places.take(place=place("a", held=1))
    assert places.take(place=place("a", held=2, is_urgent=True)).is_given
    places.step("hold", "a", 2, 60.0)
    assert not places.take(place=place("b")).is_given


@few
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "take", "end", "crash"]), st.floats(0, 3)),
        max_size=40,
    )
)
def test_never_more_places_than_the_most_and_all_come_back(
    client: Any, said: list[tuple[str, str, float]]
) -> None:
    state, now, most, lease = State(client, rates=("", "", "", "")), START, 3, 60.0
    held, crashed, renewed = dict.fromkeys("abc", 0), 0, 0
    for process, step, seconds in said:
        now += seconds
        name = f"{process}{renewed}"
        if step == "take":
            asked = state.take(place=place(name, held[process], most=most, lease=lease), at=now)
            held[process] += asked.is_given
        elif step == "end" and held[process]:
            held[process] -= 1
            state.step("hold", name, held[process], lease, at=now)
        elif step == "crash":
            crashed += held[process]
            renewed += 1
            for other in held:
                if other != process:  # the same goes on under a new name: its places are handed over
                    state.step("hold", f"{other}{renewed - 1}", 0, lease, at=now)
                    state.step("hold", f"{other}{renewed}", held[other], lease, at=now)
            held[process] = 0
        assert sum(held.values()) + crashed <= most
        if now - START >= lease:
            return
    for _ in range(2):
        now += lease + 1
        given = [state.take(place=place("d", taken, most=most), at=now).is_given for taken in range(most + 1)]
    assert given == [True] * most + [False], "what crashed is given back"


# --- the state


def test_every_step_leaves_one_state_that_expires(state: State) -> None:
    before = set(state.client.keys("*"))
    turn = state.take(place=place("a"))
    state.look(turn, at=START)
    steps = [
        ("undo", turn.epoch, 1, 0),
        ("give_back", turn.epoch, 1.0),
        ("pause", START, 1.0),
        ("prove", START),
    ]
    steps += [("see", turn.epoch, START, *([1.0] * 8), *NOTHING), ("hold", "a", 1, 60.0), ("try",)]
    for step in steps:
        state.client.persist(state.key)
        state.step(*step)
        assert 3_590_000 < state.client.pttl(state.key) <= 3_600_000
    assert {one.decode() for one in set(state.client.keys("*")) - before} == {state.key}


def test_a_state_does_not_grow_with_requests(state: State) -> None:
    state.take()
    size = state.client.strlen(state.key)
    for number in range(300):
        turn = state.take(tokens=7, at=START + number / 3)
        state.step("see", turn.epoch, START, 9.0, 1.0, 10.0, 100.0, 1.0, 1.0, 10.0, 10.0, *NOTHING)
    assert state.client.strlen(state.key) < size + 200


def test_time_is_rediss_own(state: State) -> None:
    seconds, micros = state.client.time()
    assert 0 <= state.take(at="").at - (seconds + micros / 1e6) < 5


def test_a_clock_that_is_set_back_stops_nothing(state: State) -> None:
    for _ in range(10):
        state.take()
    state.step("pause", START, 2.0)
    behind = START - 3_600
    assert state.take(at=behind).at == START
    assert state.take(at=behind + 1).at == START + 1
    assert state.take(at=behind + 2.5).pause == 0
    assert state.take(at=behind + 10).wait == 0
