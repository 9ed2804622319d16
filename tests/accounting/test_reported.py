"""What is read from a result of LangChain's, of whatever form."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from lc_service.accounting.reported import Reported, read_result, read_usage
from lc_service.accounting.usage import TokenUsage

METADATA = {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15}
USAGE = TokenUsage(input_tokens=12, output_tokens=3)


def answer(**fields: Any) -> ChatGeneration:
    return ChatGeneration(message=AIMessage("Hi", **fields))


def test_llm_output_comes_before_the_message() -> None:
    output = {"token_usage": {"prompt_tokens": 12, "completion_tokens": 9}, "model_name": "m-1"}
    told = read_result(output, [answer(usage_metadata=METADATA, response_metadata={"model_name": "m-2"})])
    assert told == Reported(usage=TokenUsage(input_tokens=12, output_tokens=9), model="m-1")


@pytest.mark.parametrize("output", [None, {}])
def test_a_streamed_result_is_read_from_its_message(output: Any) -> None:
    metadata = {"model_name": "m-2", "service_tier": "flex"}
    told = read_result(output, [answer(usage_metadata=METADATA, response_metadata=metadata)])
    assert told == Reported(usage=USAGE, model="m-2", service_tier="flex")


def test_a_cache_hit_is_told_by_its_zeroed_cost() -> None:
    told = read_result(None, [answer(usage_metadata=METADATA | {"total_cost": 0})])
    assert (told.is_cached, told.usage) == (True, TokenUsage())


def test_an_answer_that_has_a_cost_of_its_own_is_no_cache_hit() -> None:
    output = {"token_usage": {"prompt_tokens": 12, "completion_tokens": 3}}
    told = read_result(output, [answer(usage_metadata=METADATA | {"total_cost": 0.1})])
    assert (told.is_cached, told.usage) == (False, USAGE)


@pytest.mark.parametrize("generations", [[], [Generation(text="no chat")], [answer()]])
def test_what_is_not_told_is_none(generations: Any) -> None:
    assert read_result({}, generations) == Reported()


@pytest.mark.parametrize("odd", [None, "many", {}, 5])
def test_odd_usage_is_none(odd: Any) -> None:
    assert read_usage(odd) is None
    assert read_result({"token_usage": odd}, []).usage is None
