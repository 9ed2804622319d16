from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.material import choose_tag, is_blank

PIECES = st.sampled_from(["</", "<", "/", "document", "DOCUMENT", "-2", "-3", "-02", ">", " ", "\n", "x"])
MARKUP = st.lists(PIECES, max_size=40).map("".join)


@given(st.lists(st.one_of(st.text(), MARKUP), max_size=3))
def test_no_text_closes_the_chosen_tag(texts):
    tag = choose_tag("document", *texts)
    assert all(f"</{tag}>".casefold() not in text.casefold() for text in texts)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("", "document"),
        ("<document>", "document"),
        ("</documentary", "document-2"),
        ("</ DOCUMENT >", "document-2"),
        ("<\n/document>", "document-2"),
        ("</document></document-2>", "document-3"),
        ("</document></document-3>", "document-2"),
        ("</document-2>", "document"),
        ("</document-" + "9" * 5000 + ">", "document"),
    ],
)
def test_the_first_free_tag_is_taken(text, tag):
    assert choose_tag("document", text) == tag


def test_a_text_full_of_tags_is_read_once():
    hostile = "".join(f"</document-{n}>" for n in range(1, 50_000)) + "</document>"
    assert choose_tag("document", hostile) == "document-50000"


@pytest.mark.parametrize("text", [None, "", " ", "\n\t", "\u3000\u00a0", "\ufeff", "\u200b", "\x00"])
def test_nothing_visible_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " . ", "海", "👩🏽‍🚀", "\u202bم", "0", "\ufeffx"])
def test_anything_visible_is_not(text):
    assert not is_blank(text)
