from __future__ import annotations

import json

import openai
import pytest

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def joined(events, index=0):
    """Put a stream's choice together: text, tool calls, finish_reason."""
    text, calls, finish = "", {}, None
    for event in events:
        if event == "[DONE]":
            continue
        for choice in event["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            text += delta.get("content") or ""
            for part in delta.get("tool_calls", ()):
                call = calls.setdefault(part["index"], {"arguments": ""})
                call["id"] = part.get("id") or call["id"]
                call["name"] = part["function"].get("name") or call["name"]
                call["arguments"] += part["function"]["arguments"]
            finish = choice["finish_reason"] or finish
    return text, calls, finish


def test_the_plain_answer_has_openais_shape(wire):
    body = wire.chat().json()
    assert body["object"] == "chat.completion"
    assert body["id"] == "chatcmpl-sim000001"
    assert body["service_tier"] == "default"
    assert body["choices"][0]["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0


@pytest.mark.parametrize("extra", [{}, {"n": 3}, {"max_tokens": 7}, {"stop": ["the"]}])
def test_chunks_join_to_the_plain_answer(wire, extra):
    plain = wire.chat(**extra).json()
    events = wire.chat_stream(stream_options={"include_usage": True}, **extra)
    for index, choice in enumerate(plain["choices"]):
        text, _, finish = joined(events, index)
        assert text == choice["message"]["content"]
        assert finish == choice["finish_reason"]
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"] == plain["usage"]
    assert events[-2]["choices"] == []
    assert all(event["usage"] is None for event in events[:-2])


def test_no_usage_unless_asked_for(wire):
    assert all("usage" not in event for event in wire.chat_stream()[:-1])


def test_tool_calls_stream_name_first_then_arguments(wire):
    text = "What is the weather in Rome?"
    plain = wire.chat(text, tools=[TOOL]).json()["choices"][0]
    events = wire.chat_stream(text, tools=[TOOL])
    _, calls, finish = joined(events)
    function = plain["message"]["tool_calls"][0]["function"]
    assert calls[0]["name"] == function["name"] == "get_weather"
    assert calls[0]["arguments"] == function["arguments"]
    assert json.loads(function["arguments"]) == {"city": "Rome"}
    assert finish == plain["finish_reason"] == "tool_calls"
    assert plain["message"]["content"] is None
    first = next(e for e in events if e["choices"][0]["delta"].get("tool_calls"))
    assert first["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == ""


def test_logprobs_cover_the_answer(wire):
    choice = wire.chat(logprobs=True, top_logprobs=2).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == choice["message"]["content"]
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in content)


def test_the_sdk_reads_all_of_it(wire):
    with openai.OpenAI(base_url=wire.sim.base_url, api_key="sk-x", max_retries=0) as client:
        request = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "How are you?"}]}
        plain = client.chat.completions.create(**request)
        stream = client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage == plain.usage
