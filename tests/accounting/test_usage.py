"""TokenUsage reads every form of usage there is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import UsageMetadata
from langchain_core.messages.ai import add_usage
from langchain_openai.chat_models.base import _create_usage_metadata, _create_usage_metadata_responses
from openai.types import CompletionUsage, CreateEmbeddingResponse
from openai.types.responses import ResponseUsage

from lc_service.accounting.usage import USAGE_FIELDS, TokenUsage

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 0},
}
RESPONSES = {
    "input_tokens": 100,
    "output_tokens": 50,
    "total_tokens": 150,
    "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 20},
}
METADATA = {
    "input_tokens": 100,
    "output_tokens": 50,
    "total_tokens": 150,
    "input_token_details": {"cache_read": 30},
    "output_token_details": {"reasoning": 20},
}
READ = TokenUsage(input_tokens=100, cached_input_tokens=30, output_tokens=50, reasoning_tokens=20)

FULL_CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 40, "audio_tokens": 5},
    "completion_tokens_details": {
        "reasoning_tokens": 20,
        "audio_tokens": 6,
        "accepted_prediction_tokens": 7,
        "rejected_prediction_tokens": 8,
    },
}
FULL = TokenUsage(
    input_tokens=100,
    cached_input_tokens=30,
    cache_write_tokens=40,
    audio_input_tokens=5,
    output_tokens=50,
    reasoning_tokens=20,
    audio_output_tokens=6,
    accepted_prediction_tokens=7,
    rejected_prediction_tokens=8,
)
usages = st.builds(TokenUsage, **{name: st.integers(0, 10**9) for name in USAGE_FIELDS})


@pytest.mark.parametrize(
    "usage",
    [
        pytest.param(CHAT, id="chat dictionary"),
        pytest.param(CompletionUsage.model_validate(CHAT), id="chat object"),
        pytest.param(RESPONSES, id="responses dictionary"),
        pytest.param(ResponseUsage.model_validate(RESPONSES), id="responses object"),
        pytest.param(METADATA, id="LangChain"),
        pytest.param(_create_usage_metadata(CHAT), id="LangChain, made of chat"),
        pytest.param(_create_usage_metadata(CHAT, "default"), id="LangChain, default tier"),
        pytest.param(_create_usage_metadata(CHAT, "flex"), id="LangChain, flex tier"),
        pytest.param(_create_usage_metadata(CHAT, "priority"), id="LangChain, priority tier"),
        pytest.param(_create_usage_metadata_responses(RESPONSES), id="LangChain, made of responses"),
        pytest.param(_create_usage_metadata_responses(RESPONSES, "flex"), id="LangChain, responses, flex"),
        pytest.param(
            _create_usage_metadata_responses(RESPONSES, "priority"), id="LangChain, responses, priority"
        ),
    ],
)
def test_every_form_is_read(usage: object) -> None:
    assert TokenUsage.read(usage) == READ


@pytest.mark.parametrize(
    "usage", [FULL_CHAT, CompletionUsage.model_validate(FULL_CHAT | {"total_tokens": 150})]
)
def test_every_kind_of_token_is_told_apart(usage: object) -> None:
    assert TokenUsage.read(usage) == FULL


@pytest.mark.parametrize("tier", [None, "default", "flex", "priority"])
def test_langchain_keeps_all_kinds_but_predictions(tier: str | None) -> None:
    told = replace(FULL, accepted_prediction_tokens=0, rejected_prediction_tokens=0)
    assert TokenUsage.read(_create_usage_metadata(FULL_CHAT, tier)) == told


@pytest.mark.parametrize("tier", [None, "flex", "priority"])
def test_responses_tell_what_was_written_to_the_cache(tier: str | None) -> None:
    usage = RESPONSES | {"input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 40}}
    expected = replace(READ, cache_write_tokens=40)
    assert TokenUsage.read(usage) == expected
    assert TokenUsage.read(ResponseUsage.model_validate(usage)) == expected
    assert TokenUsage.read(_create_usage_metadata_responses(usage, tier)) == expected


def test_a_sum_over_service_tiers_keeps_every_tier() -> None:
    tiers = [_create_usage_metadata(CHAT, tier) for tier in (None, "flex", "priority")]
    summed: UsageMetadata | None = None
    for usage in tiers:
        summed = add_usage(summed, usage)
    assert TokenUsage.read(summed) == READ + READ + READ


def test_embeddings_usage_has_no_output() -> None:
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    response = CreateEmbeddingResponse.model_validate(
        {"object": "list", "data": [], "model": "m", "usage": usage}
    )
    assert TokenUsage.read(usage) == TokenUsage.read(response.usage) == TokenUsage(input_tokens=7)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 3, "completion_tokens": 2},
        {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None,
         "completion_tokens_details": None},
        {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {},
         "completion_tokens_details": {"reasoning_tokens": None}},
        {"input_tokens": 3, "output_tokens": 2, "input_token_details": {"cache_read": None}},
        CompletionUsage(prompt_tokens=3, completion_tokens=2, total_tokens=5),
        SimpleNamespace(prompt_tokens=3, completion_tokens=2),
        SimpleNamespace(input_tokens=3, output_tokens=2, input_tokens_details=None),
    ],
)  # fmt: skip
def test_missing_details_count_nothing(usage: object) -> None:
    assert TokenUsage.read(usage) == TokenUsage(input_tokens=3, output_tokens=2)


@pytest.mark.parametrize("usage", [{"prompt_tokens": 3}, {"prompt_tokens": 3, "completion_tokens": None}])
def test_one_count_is_enough(usage: object) -> None:
    assert TokenUsage.read(usage) == TokenUsage(input_tokens=3)
    assert TokenUsage.read({"output_tokens": 2}) == TokenUsage(output_tokens=2)


@pytest.mark.parametrize(
    "garbage",
    [None, {}, [], "prompt_tokens", 12, object(), {"total_tokens": 5}, {"prompt_tokens": "12"},
     {"prompt_tokens": True}, {"prompt_tokens": None, "completion_tokens": None}],
)  # fmt: skip
def test_garbage_is_a_type_error_that_names_the_fields(garbage: object) -> None:
    with pytest.raises(TypeError, match=f"prompt_tokens.*input_tokens.*{type(garbage).__name__}"):
        TokenUsage.read(garbage)


@given(
    st.dictionaries(st.sampled_from([*CHAT, *RESPONSES, *METADATA]), st.none() | st.text() | st.booleans())
)
def test_whatever_it_is_given_it_returns_or_raises_type_error(usage: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        TokenUsage.read(usage)


@given(usages)
def test_reading_undoes_writing(usage: TokenUsage) -> None:
    wire = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": usage.audio_input_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.audio_output_tokens,
            "accepted_prediction_tokens": usage.accepted_prediction_tokens,
            "rejected_prediction_tokens": usage.rejected_prediction_tokens,
        },
    }
    assert TokenUsage.read(wire) == usage


@given(usages, usages, usages)
def test_sums_obey_the_laws(a: TokenUsage, b: TokenUsage, c: TokenUsage) -> None:
    assert a + TokenUsage() == a == TokenUsage() + a
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert (a + b).total_tokens == a.total_tokens + b.total_tokens
    assert a.total_tokens == a.input_tokens + a.output_tokens  # details are parts, not additions


def test_usage_is_a_value() -> None:
    usage = TokenUsage(input_tokens=1)
    assert usage == TokenUsage(input_tokens=1)
    assert hash(usage) == hash(TokenUsage(input_tokens=1))
    with pytest.raises(AttributeError):
        usage.input_tokens = 2  # type: ignore[misc]
