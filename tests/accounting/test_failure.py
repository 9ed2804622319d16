"""What a failed attempt cost, read from whatever came with its error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from langchain_core.messages import AIMessage

from lc_service.accounting.failure import paid_usage
from lc_service.accounting.usage import TokenUsage

USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
MESSAGES_USAGE = {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15}


def failure(**facts: Any) -> Exception:
    error = openai.OpenAIError("m")
    for name, value in facts.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    "facts",
    [
        {"partial": AIMessage("H", usage_metadata=MESSAGES_USAGE)},
        {"completion": SimpleNamespace(usage=USAGE)},
        {"response": httpx2.Response(200, json={"usage": USAGE})},
    ],
    ids=["partial", "completion", "response"],
)
def test_usage_is_found_wherever_an_error_keeps_it(facts: dict[str, Any]) -> None:
    assert paid_usage(failure(**facts)) == TokenUsage(input_tokens=12, output_tokens=3)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"response": httpx2.Response(200, text="<html>")},
        {"response": httpx2.Response(200, content=b"\xff")},
        {"response": httpx2.Response(200, json=["usage"])},
        {"response": httpx2.Response(200, json={"usage": {}})},
        {"response": httpx2.Response(200, json={"usage": "fifteen"})},
        {"response": httpx2.Response(200, json={"usage": {"prompt_tokens": "twelve"}})},
        {"response": httpx2.Response(500, json={"usage": USAGE})},
        {"response": "200"},
    ],
    ids=["nothing", "page", "bytes", "list", "empty", "words", "a word", "refused", "no response"],
)
def test_what_tells_no_usage_is_unknown_and_hides_no_error(facts: dict[str, Any]) -> None:
    assert paid_usage(failure(**facts)) is None


def test_usage_that_cannot_be_read_does_not_hide_another() -> None:
    told = httpx2.Response(200, json={"usage": USAGE})
    error = failure(completion=SimpleNamespace(usage="fifteen"), response=told)
    assert paid_usage(error) == TokenUsage(input_tokens=12, output_tokens=3)
