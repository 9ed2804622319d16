from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.simulator.tokens import count_tokens, split_tokens


@given(st.text())
def test_the_pieces_of_any_text_are_that_text(text):
    pieces = split_tokens(text)
    assert "".join(pieces) == text
    assert len(pieces) == count_tokens(text)
    assert all(pieces)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("Hello", 1), ("Hello, world!", 4), ("internationalisation", 3), ("12345", 2),
     ("你好世界", 4), ("größer", 2), ("a_b", 3)],
)  # fmt: skip
def test_counts_are_of_a_plausible_size(text, tokens):
    assert count_tokens(text) == tokens


def test_a_million_spaces_are_counted_in_reasonable_pieces():
    assert count_tokens(" " * 1_000_000) == 62_500
