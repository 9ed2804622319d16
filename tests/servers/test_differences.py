"""The table in `docs/servers.md`, row by row, against what each server does, read past this package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).parents[2] / "docs" / "servers.md"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def yes(is_so: object) -> str:
    return "yes" if is_so else "no"


def events(server: Any, **body: Any) -> list[dict[str, Any]]:
    lines = server.ask(stream=True, **body).text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def usage_in_stream(server: Any) -> str:
    asked = events(server, stream_options={"include_usage": True})
    return f"{yes(asked[-1].get('usage'))}, {'with no' if not asked[-1]['choices'] else 'with a'} choice"


def usage_in_stream_unasked(server: Any) -> str:
    return yes(any(event.get("usage") for event in events(server)))


def limited_by(server: Any, name: str) -> str:
    answer = server.ask(**({"max_tokens": None} | {name: 3})).json()
    return yes(answer["usage"]["completion_tokens"] == 3)


def choices(server: Any) -> str:
    return yes(len(server.ask(n=2).json()["choices"]) == 2)


def tool_calls(server: Any) -> str:
    answer = server.ask("what is the weather?", tools=[TOOL], tool_choice="required", max_tokens=200).json()
    return yes((answer.get("choices") or [{"message": {}}])[0]["message"].get("tool_calls"))


def log_probabilities(server: Any) -> str:
    return yes(server.ask(logprobs=True).json()["choices"][0].get("logprobs"))


def told_limits(headers: Any) -> str:
    """Say which headers of a limit there are, without their prefix and without what they limit."""
    found = {match[1] for name in headers if (match := re.match(r"x-ratelimit-(\w+)-\w+$", name))}
    found |= {"`retry-after`"} & {f"`{name}`" for name in headers}
    return ", ".join(sorted(found)) or "nothing"


def limits_of_an_answer(server: Any) -> str:
    return told_limits(server.ask(**server.limited).headers)


def limits_of_a_rejection(server: Any) -> str:
    answers = [server.ask(**server.rejected) for _ in range(3)]  # a minute may begin between two of them
    return next((told_limits(each.headers) for each in answers if each.status_code == 429), "never rejects")


def request_id(server: Any) -> str:
    return yes(server.ask().headers.get("x-request-id"))


def vectors_as_asked(server: Any) -> str:
    body = {"model": server.embedding_model, "input": ["tin"], "encoding_format": "base64"}
    answer = server.post("/v1/embeddings", body).json()
    return yes(isinstance(answer["data"][0]["embedding"], str))


def responses_usage(server: Any) -> str:
    body = {"model": server.chat_model, "input": "hello", "max_output_tokens": 24}
    answer = server.post("/v1/responses", body).json()
    return yes(answer["usage"]["total_tokens"])


def error(answer: Any) -> str:
    if answer.status_code == 200:
        return "answered"
    said = answer.json()["error"]
    words = [said.get(name) for name in ("code", "type")]
    return f"{answer.status_code} " + " ".join(f"`{word}`" for word in words if word is not None)


def wrong_key(server: Any) -> str:
    return error(server.ask(key="sk-wrong"))


def unknown_model(server: Any) -> str:
    return error(server.ask(model="nonesuch"))


def too_long(server: Any) -> str:
    return error(server.ask(server.too_long, model=server.too_long_model or server.chat_model))


ROWS: dict[str, Callable[[Any], str]] = {
    "usage at the end of a stream, asked for": usage_in_stream,
    "usage at the end of a stream, not asked for": usage_in_stream_unasked,
    "keeps to `max_completion_tokens`": lambda server: limited_by(server, "max_completion_tokens"),
    "keeps to `max_tokens`": lambda server: limited_by(server, "max_tokens"),
    "two choices for `n=2`": choices,
    'a tool call for `tool_choice="required"`': tool_calls,
    "log probabilities": log_probabilities,
    "vectors in base64 when asked": vectors_as_asked,
    "usage in the Responses API": responses_usage,
    "told of limits by an answer": limits_of_an_answer,
    "told of limits by a 429": limits_of_a_rejection,
    "`x-request-id`": request_id,
    "a wrong key": wrong_key,
    "a model nobody knows": unknown_model,
    "a prompt that is too long": too_long,
}


def table() -> dict[str, dict[str, str]]:
    """Return the cells of the document's table, by row and server."""
    lines = re.findall(r"^\|(.+)\|$", TABLE.read_text(), re.MULTILINE)
    head, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {name: dict(zip(head[1:], cells, strict=True)) for name, *cells in rows}


def test_the_table_has_every_row_and_no_other():
    assert list(table()) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_the_server_does(server, row):
    assert ROWS[row](server) == table()[row][server.name]
