from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.parts import StreamStrip, split_text, strip_ends

PIECES = st.sampled_from(
    ["word ", "Ebb. ", "潮汐。", "\n", "\n\n", " ", "longword", "e\u0301", "👩🏽‍🚀", "مد "]
)
TEXTS = st.lists(PIECES, max_size=120).map("".join)


@given(TEXTS, st.integers(1, 60))
def test_the_parts_are_the_text_and_each_fits(text, max_tokens):
    parts = split_text(text, max_tokens, len)
    assert "".join(parts) == text
    assert all(1 <= len(part) <= max_tokens for part in parts)


@given(TEXTS, st.integers(1, 40), st.data())
def test_no_cut_is_inside_a_span_that_is_to_stay_whole(text, max_tokens, data):
    ends = st.lists(st.integers(0, len(text)), unique=True, max_size=10).map(sorted)
    edges = data.draw(ends)
    spans = list(zip(edges[::2], edges[1::2], strict=False))
    parts = split_text(text, max_tokens, len, whole_spans=spans)
    assert "".join(parts) == text
    cuts = {sum(map(len, parts[:i])) for i in range(1, len(parts))}
    assert not any(start < cut < end for start, end in spans for cut in cuts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("Ebb.", ["Ebb."]),
        ("One two.\n\nThree. Four\nfive six.", ["One two.\n\n", "Three. Four\n", "five six."]),
        ("One, two. Three, four five. Six", ["One, two. ", "Three, four ", "five. Six"]),
        ("这里的海边有灯塔。夜里它照亮船只的路。", ["这里的海边有灯塔。", "夜里它照亮船只的路。"]),
        ("x" * 30, ["x" * 12, "x" * 12, "x" * 6]),
    ],
)
def test_the_best_boundary_of_the_second_half_is_taken(text, parts):
    assert split_text(text, 12, len) == parts


@pytest.mark.parametrize("text", ["e\u0301" * 20, "👩🏽\u200d🚀" * 10])
def test_characters_stay_with_their_marks(text):
    assert all(part[0] in "e👩" for part in split_text(text, 9, len)[1:])


def test_what_never_fits_is_cut_into_characters():
    assert split_text("abc", 1, lambda _: 5) == ["a", "b", "c"]


def test_a_text_of_a_hundred_windows_is_counted_a_few_times():
    counted = []

    def count(text):
        counted.append(len(text))
        return len(text) // 4

    text = "The tide turns twice a day. " * 15_000
    parts = split_text(text, 1_000, count)
    assert 100 <= len(parts) <= 215
    assert sum(counted) <= 12 * len(text)


def test_less_than_a_token_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        split_text("a", 0, len)


@given(st.lists(st.sampled_from(["a", " ", "\n", "", " b", "c \n"]), max_size=20))
def test_a_stripped_stream_is_the_stripped_text(chunks):
    strip = StreamStrip()
    assert "".join(map(strip, chunks)) == "".join(chunks).strip()
    assert list(map(StreamStrip(is_off=True), chunks)) == chunks


@given(st.text(alphabet=" \nab"))
def test_the_ends_and_the_core_are_the_text(text):
    before, core, after = strip_ends(text)
    assert before + core + after == text
    assert core == text.strip()
