"""What a model's recent answers let expect of the next one."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.accounting import expected_output
from lc_service.accounting.expected_output import (
    MIN_ANSWERS,
    REMEMBERED_ANSWERS,
    expected,
    expected_reasoning,
    forget,
    learn,
)
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.usage import TokenUsage


@pytest.fixture(autouse=True)
def _nothing_learnt() -> Iterator[None]:
    forget()
    yield
    forget()


def answer(output_tokens: int, reasoning_tokens: int = 0, **facts: Any) -> AttemptRecord:
    usage = TokenUsage(input_tokens=10, output_tokens=output_tokens, reasoning_tokens=reasoning_tokens)
    return AttemptRecord(**({"run_id": uuid4(), "model": "m", "usage": usage} | facts))


def test_nothing_is_expected_before_there_are_enough_answers() -> None:
    assert expected("m") is None
    assert expected_reasoning("m") is None
    for _ in range(MIN_ANSWERS - 1):
        learn(answer(100))
    assert expected("m") is None
    learn(answer(100))
    assert expected("m") == 100
    assert expected_reasoning("m") == 0
    assert expected("another") is None


def test_19_answers_of_20_stay_within_what_is_expected() -> None:
    for tokens in range(100, 0, -1):
        learn(answer(tokens, tokens // 2))
    assert expected("m") == 95
    assert expected_reasoning("m") == 25


def test_every_choice_is_expected_to_be_as_long() -> None:
    for _ in range(MIN_ANSWERS):
        learn(answer(300, 90), choices=3)
    assert expected("m") == 100
    assert expected("m", choices=3) == 300
    assert expected_reasoning("m") == 30


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=400))
def test_only_the_last_answers_count(lengths: list[int]) -> None:
    forget()
    for tokens in lengths:
        learn(answer(tokens))
    recent = sorted(lengths[-REMEMBERED_ANSWERS:])
    rank = math.ceil(0.95 * len(recent))
    assert expected("m") == (None if len(recent) < MIN_ANSWERS else recent[rank - 1])


@pytest.mark.parametrize(
    "facts",
    [
        {"status": AttemptStatus.FAILED},
        {"status": AttemptStatus.TRUNCATED},
        {"status": AttemptStatus.ABANDONED},
        {"certainty": Certainty.ESTIMATED},
        {"certainty": Certainty.UNKNOWN},
        {"operation": "embeddings"},
        {"usage": TokenUsage()},
    ],
)
def test_only_whole_measured_answers_are_learnt_from(facts: dict[str, Any]) -> None:
    for _ in range(MIN_ANSWERS):
        learn(answer(100))
    for _ in range(50):
        learn(answer(9_000, **facts))
    assert expected("m") == 100


def test_memory_is_bounded_and_keeps_the_models_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_output, "_MAX_MODELS", 3)
    for _ in range(MIN_ANSWERS):
        learn(answer(100))
    for number in range(5):
        learn(answer(1, model=f"other-{number}"))
        learn(answer(100))
    assert list(expected_output._answers) == ["other-3", "other-4", "m"]
    assert expected("m") == 100


def test_threads_learn_together() -> None:
    def teach() -> None:
        for tokens in range(1, 301):
            learn(answer(tokens))
            expected("m")

    threads = [threading.Thread(target=teach) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recent = expected_output._answers["m"].output_tokens
    assert len(recent._ring) == len(recent._sorted) == REMEMBERED_ANSWERS
    assert sorted(recent._ring) == recent._sorted
