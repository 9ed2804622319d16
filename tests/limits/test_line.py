"""The line: three ranks, arrival order in each, and nobody twice."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lc_service.limits.line import Line, Rank


def test_an_empty_line_has_no_first():
    line: Line[str] = Line()
    assert line.first is None
    assert len(line) == 0
    assert list(line) == []
    assert not line.leave("nobody")


def test_the_urgent_go_before_retries_and_retries_before_the_new():
    line: Line[str] = Line()
    for name, rank in (
        ("new 1", Rank.NEW), ("retry 1", Rank.RETRY), ("urgent 1", Rank.URGENT),
        ("new 2", Rank.NEW), ("retry 2", Rank.RETRY), ("urgent 2", Rank.URGENT),
    ):  # fmt: skip
        line.join(name, rank)
    assert list(line) == ["urgent 1", "urgent 2", "retry 1", "retry 2", "new 1", "new 2"]


@pytest.mark.parametrize("rank", Rank)
def test_whoever_is_put_first_is_first_and_there_once(rank):
    line: Line[str] = Line()
    line.join("urgent", Rank.URGENT)
    line.join("blocking", rank)
    line.put_first("blocking")
    line.put_first("newcomer")
    assert list(line) == ["newcomer", "blocking", "urgent"]


def test_one_leaves_once():
    line: Line[str] = Line()
    line.join("one", Rank.RETRY)
    assert line.leave("one")
    assert not line.leave("one")
    assert line.first is None


class LineLaw(RuleBasedStateMachine):
    """The line against three plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.line: Line[int] = Line()
        self.model: dict[Rank, list[int]] = {rank: [] for rank in Rank}
        self.count = 0

    def forget(self, one: int) -> bool:
        for ones in self.model.values():
            if one in ones:
                ones.remove(one)
                return True
        return False

    @rule(rank=st.sampled_from(Rank))
    def join(self, rank: Rank) -> None:
        self.count += 1
        self.line.join(self.count, rank)
        self.model[rank].append(self.count)

    @rule(one=st.integers(1, 20))
    def put_first(self, one: int) -> None:
        self.line.put_first(one)
        self.forget(one)
        self.model[Rank.URGENT].insert(0, one)
        self.count = max(self.count, one)

    @rule(one=st.integers(1, 20))
    def leave(self, one: int) -> None:
        assert self.line.leave(one) is self.forget(one)

    @invariant()
    def is_the_same(self) -> None:
        expected = [one for rank in Rank for one in self.model[rank]]
        assert list(self.line) == expected
        assert len(self.line) == len(expected)
        assert self.line.first == (expected[0] if expected else None)


TestLineLaw = LineLaw.TestCase
