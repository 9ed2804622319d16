from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.protected import find_lost, find_protected, has_protected, has_words

SPANS = [
    "```py\nx = {1: 2}\n\nprint(`a`)\n```",
    "~~~\ncode\n~~~~",
    "`ls -l`",
    "``a ` b``",
    "{name}",
    "{}",
    "{0!r:>10}",
    "{{ user.name }}",
    "${HOME}",
    "{% if x %}",
    "%s",
    "%(count)d",
    "https://a.b/c?d=e&f=%20#g",
    "<https://x.y/z>",
    "mailto:a@b.example",
    "<b>",
    "</b>",
    '<img src="a.png"\n  alt="x">',
    "<br/>",
    "<!-- note -->",
]
PROSE = [
    "3 < 5 and y > 3",
    "a set {a, b c}",
    "50% of it",
    "a ` b",
    "100 %",
    "http and https",
    "Tide: high",
    "[1] (see below)",
]


def protected(text: str) -> list[str]:
    return [text[start:end] for start, end in find_protected(text)]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("Look:\n", "\nso."), ("看\n", "\n。")])
def test_what_must_stay_is_found(span, before, after):
    assert protected(before + span + after) == [span]
    assert has_protected(before + span + after)


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_not_protected(text):
    assert protected(text) == []
    assert not has_protected(text)
    assert has_words(text) == any(char.isalpha() for char in text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("See https://a.b/c.", "https://a.b/c"),
        ("(https://a.b/c)", "https://a.b/c"),
        ("查看https://a.b/c。然后", "https://a.b/c"),
        ("**https://a.b/c**", "https://a.b/c"),
    ],
)
def test_a_url_ends_before_the_punctuation(text, url):
    assert protected(text) == [url]


def test_link_targets_are_kept_and_their_texts_are_not():
    assert protected('[The pier](../pier.md "Pier") ![map](map.png)') == ["../pier.md", "map.png"]


def test_an_open_fence_runs_to_the_end():
    assert protected("Look:\n```\nls\n") == ["```\nls\n"]


def test_lost_spans_are_named_once_in_order():
    source = "## A\n\n`x` {a} {a} https://a.b\n\n## B"
    assert find_lost(source, source) == []
    assert find_lost(source, "## C\n\n{a} https://a.b") == ["`x`", "{a}", "##"]
    assert find_lost(source, "") == ["`x`", "{a}", "https://a.b", "##"]
    assert find_lost("Ebb", "## more {a}") == []


@pytest.mark.parametrize(
    ("text", "is_worded"),
    [
        ("```\nls\n```\n", False),
        ("`x` {a} <br> 12 — !", False),
        ("`x` 和", True),
        ("", False),
        ("{a} b", True),
    ],
)
def test_words_outside_of_spans_are_what_is_translated(text, is_worded):
    assert has_words(text) == is_worded


@given(st.lists(st.sampled_from([*SPANS, *PROSE, "\n", " ", "`", "{", "<", "文"]), max_size=12).map("".join))
def test_spans_stand_in_order_and_a_text_loses_nothing_of_itself(text):
    spans = find_protected(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert find_lost(text, text) == []


@pytest.mark.parametrize(
    "bad",
    ["`", "<", "{", "```\n", "a`b", "<a ", "http://", "](", "<!--", "%(", "~~~x\n", "a`b``c", "{{a", "` "],
)
def test_hostile_texts_take_linear_time(bad):
    def seconds(length: int) -> float:
        text = bad * (length // len(bad))
        start = time.process_time()
        find_protected(text)
        return time.process_time() - start

    assert seconds(80_000) < 0.5
