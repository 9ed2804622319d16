"""Which tags and metadata of a run are kept: the user's own, short, and no secrets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.accounting.attribution import MAX_CHARACTERS, own_metadata, own_tags


def test_langchains_own_tags_are_left_out() -> None:
    tags = ["seq:step:2", "nightly", "map:key:left", "nightly", "langsmith:hidden", "condition:1", "team-a"]
    assert own_tags(tags) == ("nightly", "team-a")


@pytest.mark.parametrize("nothing", [None, []])
def test_no_tags_are_no_tags(nothing: Any) -> None:
    assert own_tags(nothing) == ()


def test_langchains_own_metadata_is_left_out() -> None:
    metadata = {
        "ls_provider": "openai",
        "langgraph_step": 3,
        "checkpoint_ns": "agent:1",
        "__pregel": "x",
        "lc_versions": "1",
        "user": "ann",
        "attempt": 2,
        "share": 0.5,
        "is_test": True,
    }
    assert own_metadata(metadata) == {"user": "ann", "attempt": 2, "share": 0.5, "is_test": True}


@pytest.mark.parametrize(
    "name",
    ["api_key", "OPENAI_API_KEY", "password", "client_secret", "token", "Authorization", "credentials"],
)
def test_what_is_called_a_secret_is_left_out(name: str) -> None:
    assert own_metadata({name: "sk-1"}) == {}


@pytest.mark.parametrize("value", ["x" * (MAX_CHARACTERS + 1), None, ["a"], {"a": 1}, object(), b"x"])
def test_what_may_be_a_prompt_is_left_out(value: Any) -> None:
    assert own_metadata({"system": value}) == {}
    assert own_tags([value]) == ()


def test_the_longest_name_is_kept() -> None:
    assert own_metadata({"user": "x" * MAX_CHARACTERS}) == {"user": "x" * MAX_CHARACTERS}
    assert own_tags(["x" * MAX_CHARACTERS]) == ("x" * MAX_CHARACTERS,)


@given(st.lists(st.text(max_size=200)), st.dictionaries(st.text(max_size=20), st.text(max_size=200)))
def test_nothing_is_invented_and_all_of_it_is_short(tags: list[str], metadata: dict[str, str]) -> None:
    kept, about = own_tags(tags), own_metadata(metadata)
    assert set(kept) <= set(tags)
    assert len(set(kept)) == len(kept)
    assert about.items() <= metadata.items()
    assert all(len(each) <= MAX_CHARACTERS for each in (*kept, *about.values()))
