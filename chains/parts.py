"""Cut a long text into parts that fit, at the best boundaries there are.

Joined, the parts are the text, character for character; no part is empty. Nothing is summarized,
cleaned or repeated, and what a part means is not looked at.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence

_BOUNDARIES = (
    re.compile(r"\n\s*\n"),  # paragraphs
    re.compile(r"\n"),
    re.compile(r"[.!?…؟۔।]['\"”’)\]]*\s+|[。！？]['\"”’」』）]*\s*"),  # noqa: RUF001  Chinese sentences
    re.compile(r"\s+|[、，；،]"),  # noqa: RUF001
)
_JOINER = "\u200d"
_MARKS = f"{_JOINER}\ufe0e\ufe0f\u20e3" + "".join(map(chr, range(0x1F3FB, 0x1F400)))  # of emoji
_MAX_CLUSTER = 16

Span = tuple[int, int]


def split_text(
    text: str, max_tokens: int, count: Callable[[str], int], *, whole_spans: Sequence[Span] = ()
) -> list[str]:
    """Cut a text into parts of at most `max_tokens`.

    Args:
        text: Any text.
        max_tokens: Of each part, inclusive.
        count: Counts the tokens of a text. It is called a few times for each part.
        whole_spans: Where not to cut, `(start, end)` in order. A span that does not fit is a part
            of its own, and longer than `max_tokens`.

    Returns:
        The parts in order; none for an empty text.

    Raises:
        ValueError: `max_tokens` is below one.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    parts, start = [], 0
    while start < len(text):
        fitting = _fit(text, start, max_tokens, count)
        end = fitting if fitting == len(text) else _cut(text, start, fitting)
        end = _outside(end, start, whole_spans)
        parts.append(text[start:end])
        start = end
    return parts


def strip_ends(text: str) -> tuple[str, str, str]:
    """Return the white space a text begins with, the text, and the white space it ends with."""
    core = text.strip()
    start = len(text) - len(text.lstrip())
    return text[:start], core, text[start + len(core) :]


class StreamStrip:
    """Takes the white space off both ends of a stream; what may be its end is held back.

    Args:
        is_off: Hand every chunk on as it is.
    """

    def __init__(self, *, is_off: bool = False) -> None:
        self._is_off = is_off
        self._held = ""
        self._has_begun = False

    def __call__(self, chunk: str) -> str:
        """Return what can be handed on, now that this chunk is there."""
        if self._is_off:
            return chunk
        _, core, end = strip_ends(chunk)
        text = self._held + chunk if self._has_begun else core + end
        core = text.rstrip()
        self._held = text[len(core) :]
        self._has_begun = self._has_begun or bool(core)
        return core


def _fit(text: str, start: int, max_tokens: int, count: Callable[[str], int]) -> int:
    """Return about the farthest end of a part that fits; at least one character away."""
    fits, too_far = start, len(text) + 1
    end = min(len(text), start + 4 * max_tokens)
    while True:
        if count(text[start:end]) <= max_tokens:
            fits = end
        else:
            too_far = end
        if fits == len(text) or too_far - fits <= max(1, (fits - start) // 32):
            return max(fits, start + 1)
        end = (fits + too_far) // 2 if too_far <= len(text) else min(len(text), 2 * end - start)


def _cut(text: str, start: int, end: int) -> int:
    """Return the last good boundary in the second half of what fits."""
    half = (start + end) // 2
    for boundary in _BOUNDARIES:
        if last := max((found.end() for found in boundary.finditer(text, half, end)), default=0):
            return last
    for cut in range(end, max(start, end - _MAX_CLUSTER), -1):
        if not (unicodedata.combining(text[cut]) or text[cut] in _MARKS or text[cut - 1] == _JOINER):
            return cut
    return end


def _outside(end: int, start: int, spans: Sequence[Span]) -> int:
    index = bisect_right(spans, (end, -1)) - 1
    if index < 0 or not spans[index][0] < end < spans[index][1]:
        return end
    return spans[index][0] if spans[index][0] > start else spans[index][1]
