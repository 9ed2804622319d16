"""The line before a limit: a first, and an order in which nobody is passed for good.

Invariant: first come those for whom somebody waits who holds a place, then retries, then all others; each of
the three in the order of arrival. Every step takes the same time however many stand in it. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from itertools import chain
from typing import Generic, TypeVar

T = TypeVar("T")


class Rank(IntEnum):
    """Who goes before whom.

    A retry may wait for a place that only comes free when an urgent one has been let in.
    """

    URGENT = 0
    RETRY = 1
    NEW = 2


class Line(Generic[T]):
    """Those who wait, each once; not thread-safe."""

    __slots__ = ("_ranks",)

    def __init__(self) -> None:
        self._ranks: tuple[OrderedDict[T, None], ...] = tuple(OrderedDict() for _ in Rank)

    def __len__(self) -> int:
        return sum(map(len, self._ranks))

    def __iter__(self) -> Iterator[T]:
        """Return those who wait, the first one first."""
        return chain.from_iterable(self._ranks)

    @property
    def first(self) -> T | None:
        """Who is next; None where nobody waits."""
        return next(iter(self), None)

    def join(self, one: T, rank: Rank) -> None:
        """Stand behind all of that rank."""
        self._ranks[rank][one] = None

    def put_first(self, one: T) -> None:
        """Stand before everybody, whether it waits already or not."""
        self.leave(one)
        self._ranks[Rank.URGENT][one] = None
        self._ranks[Rank.URGENT].move_to_end(one, last=False)

    def leave(self, one: T) -> bool:
        """Step out; False for one that does not wait."""
        # a default that nobody in the line has
        return any(waiting.pop(one, waiting) is None for waiting in self._ranks)
