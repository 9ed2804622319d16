"""Count tokens the simulator's own way: one regular expression, no vocabulary, no internet.

Invariant: the pieces of a text joined together are that text, so a stream sent piece by piece adds
up to the plain answer. It does not try to agree with any real tokenizer beyond its order of size.
"""

from __future__ import annotations

import re

# Scripts written without spaces (CJK, kana, Hangul, full-width forms) count one token a character.
_SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9d"

_PIECE = re.compile(
    r" ?[A-Za-z]{1,7}"  # the next alternative's common case, much faster as plain ranges
    rf"| ?[^\W\d_{_SINGLE}]{{1,7}}"  # up to seven letters, with the space before them
    r"| ?\d{1,3}"
    rf"|[{_SINGLE}]"
    r"| ?(?:[^\w\s]|_){1,2}"
    r"|\s{1,16}"
    r"|.",
    re.DOTALL,
)

MESSAGE_TOKENS = 3
"""Tokens each message costs beyond its text."""

PRIMING_TOKENS = 3
"""Tokens each request costs for priming the answer."""

MEDIA_TOKENS = 85
"""Tokens an image, a sound or a file costs, whatever its size."""


def split_tokens(text: str) -> list[str]:
    """Return the pieces of `text`, one token each; joined they are `text` again."""
    return _PIECE.findall(text)


def count_tokens(text: str) -> int:
    """Return the number of tokens in `text`."""
    return len(_PIECE.findall(text))
