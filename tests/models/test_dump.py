"""A completion's dump is the SDK's own, or left to it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from lc_service.models.dump import dump

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2, "a_new_kind": 1},
}
TOKEN = {
    "token": "Hi", "bytes": [72, 105], "logprob": -0.5,
    "top_logprobs": [{"token": "Hi", "bytes": None, "logprob": -0.5}],
}  # fmt: skip
TOOL_CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}},
    {"id": "call_2", "type": "custom", "custom": {"name": "sing", "input": "la"}},
]
FULL = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "gpt-4.1-mini",
    "service_tier": "default",
    "system_fingerprint": "fp",
    "provider": {"name": "theirs", "parts": [1, None]},
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hi", "reasoning_content": "Hm", "refusal": None},
            "logprobs": {"content": [TOKEN], "refusal": None},
            "content_filter_results": {},
        },
        {
            "index": 1,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": TOOL_CALLS,
                "audio": {"id": "a", "data": "", "expires_at": 1, "transcript": "t"},
                "function_call": {"name": "f", "arguments": "{}"},
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {"start_index": 0, "end_index": 2, "title": "t", "url": "u"},
                    }
                ],
            },
        },
    ],
    "usage": USAGE,
}


def is_by_the_sdk(told: Any, body: dict[str, Any]) -> bool:
    """Whether that is what LangChain has the SDK's model dump, to the types and the order of fields."""
    model = ChatCompletion.construct(**copy.deepcopy(body))
    dumped = model.model_dump(exclude={"choices": {"__all__": {"message": {"parsed"}}}}, warnings=False)
    return json.dumps(told) == json.dumps(dumped)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values in `value`, but the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return the full body with another value at a path; without the one there is where it is `DELETE`."""
    body = copy.deepcopy(FULL)
    *way, last = path
    place: Any = body
    for key in way:
        place = place[key]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    return body


DELETE = object()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "1", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "id", "x"]), inner),
    max_leaves=4,
)
SCALARS = [None, "", "7", 0, 7, 1.0, 1.5, True, [], {}, [None], ["x"], [{}], {"type": "function"}]


def test_a_full_body_is_dumped_as_by_the_sdk():
    assert is_by_the_sdk(dump(FULL), FULL)


@pytest.mark.parametrize("path", places(FULL), ids=lambda path: ".".join(map(str, path)))
def test_anything_at_any_place_is_as_by_the_sdk_or_left_to_it(path):
    for value in [*SCALARS, *[DELETE] * isinstance(path[-1], str)]:
        body = changed(path, value)
        told = dump(body)
        assert told is None or is_by_the_sdk(told, body), value


@pytest.mark.parametrize(
    "path", [("usage",), ("choices",), ("id",), ("choices", 0, "logprobs"), ("created",)]
)
def test_what_is_missing_or_null_needs_no_sdk(path):
    assert dump(changed(path, None)) is not None
    assert dump(changed(path, DELETE)) is not None


@given(st.sampled_from(places(FULL)), JSON)
def test_random_json_is_as_by_the_sdk_or_left_to_it(path, value):
    body = changed(path, value)
    told = dump(body)
    assert told is None or is_by_the_sdk(told, body)


@pytest.mark.parametrize("body", [None, [], "text", 1, [FULL]])
def test_what_is_no_object_is_left_to_the_sdk(body):
    assert dump(body) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("choices", 0, "message", "parsed"), {"a": 1}),
        (("usage", "prompt_tokens"), "9"),
        (("usage", "prompt_tokens"), 9.0),
        (("metadata",), {"a": "b"}),
        (("choices", 1, "message", "tool_calls", 0, "type"), "unheard_of"),
    ],
)
def test_what_the_sdk_would_coerce_or_type_is_left_to_it(path, value):
    assert dump(changed(path, value)) is None
