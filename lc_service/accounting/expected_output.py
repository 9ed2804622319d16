"""How long a model's answers have been of late: what a budget expects of the next one.

Invariant: learns from whole, measured answers only, and remembers no more than a model's last 128.
Not a bound: one answer in twenty is longer.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections import OrderedDict, deque

from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty

REMEMBERED_ANSWERS = 128
MIN_ANSWERS = 8
QUANTILE = 0.95
_MAX_MODELS = 1_024


class _Recent:
    """The last numbers, in the order of their coming and sorted: log n to place one, no work to read one."""

    def __init__(self) -> None:
        self._ring: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, number: int) -> None:
        if len(self._ring) == REMEMBERED_ANSWERS:
            del self._sorted[bisect_left(self._sorted, self._ring.popleft())]
        self._ring.append(number)
        insort(self._sorted, number)

    def quantile(self, share: float) -> int | None:
        """Return the least number that `share` of them do not exceed; None before there are enough."""
        if len(self._sorted) < MIN_ANSWERS:
            return None
        return self._sorted[math.ceil(share * len(self._sorted)) - 1]


class _Answers:
    def __init__(self) -> None:
        self.output_tokens = _Recent()
        self.reasoning_tokens = _Recent()


_answers: OrderedDict[str, _Answers] = OrderedDict()
_lock = threading.RLock()


def learn(record: AttemptRecord, choices: int = 1) -> None:
    """Remember how long an answer was. Thread-safe; a few microseconds.

    Anything but a whole chat answer whose usage the server told changes nothing.

    Args:
        record: The attempt.
        choices: How many answers it asked for (`n`); each is taken to have had its equal part.
    """
    if (
        record.operation != "chat"
        or record.status is not AttemptStatus.OK
        or record.certainty is not Certainty.MEASURED
        or not record.usage.total_tokens  # LangChain's cache, or a server that tells no usage
    ):
        return
    with _lock:
        answers = _answers.pop(record.model, None) or _Answers()
        _answers[record.model] = answers  # the last used stands last
        if len(_answers) > _MAX_MODELS:
            _answers.popitem(last=False)
        answers.output_tokens.add(math.ceil(record.usage.output_tokens / choices))
        answers.reasoning_tokens.add(math.ceil(record.usage.reasoning_tokens / choices))


def expected(model: str, choices: int = 1) -> int | None:
    """Return the output tokens, reasoning included, that 95 % of the model's recent answers stayed within.

    Args:
        model: The name that is asked for.
        choices: How many answers are asked for; each is expected to be as long.

    Returns:
        Tokens of all choices together; None before 8 answers have come.
    """
    with _lock:
        answers = _answers.get(model)
        tokens = None if answers is None else answers.output_tokens.quantile(QUANTILE)
    return None if tokens is None else tokens * choices


def expected_reasoning(model: str) -> int | None:
    """Return the median of the reasoning tokens of the model's recent answers.

    What a cut stream of a reasoning model has used before its first word is estimated with it.

    Returns:
        Tokens of one choice; None before 8 answers have come.
    """
    with _lock:
        answers = _answers.get(model)
        return None if answers is None else answers.reasoning_tokens.quantile(0.5)


def forget() -> None:
    """Forget all answers, for tests and for measurements that start anew."""
    with _lock:
        _answers.clear()
