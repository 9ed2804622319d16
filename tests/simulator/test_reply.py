from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import convert_to_openai_messages
from langchain_core.runnables import RunnableLambda

from chains.summarize import build_summarize_chain
from lc_service.data import load_documents
from lc_service.simulator.errors import ApiError
from lc_service.simulator.prompt import read_chat, read_responses
from lc_service.simulator.reply import compose

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FORECAST = {"type": "function", "function": {"name": "get_weather_forecast"}}
ADD = {
    "type": "function",
    "function": {
        "name": "add_numbers",
        "parameters": {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}


def ask(text, **extra):
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    return compose(read_chat({"model": "m", "messages": messages, **extra}))


def text_of(text, **extra) -> str:
    return ask(text, **extra).choices[0].text


def calls_of(text, **extra) -> list[str]:
    return [call.name for call in ask(text, **extra).choices[0].tool_calls]


def test_a_long_text_is_answered_with_its_own_sentences(long_text):
    answer = text_of(long_text)
    assert 0 < len(answer) < len(long_text)
    assert all(sentence.strip(".") in long_text for sentence in answer.split(". "))


def test_every_document_gets_a_summary_of_its_own():
    model = RunnableLambda(lambda prompt: text_of(convert_to_openai_messages(prompt.to_messages())))
    chain = build_summarize_chain(model)
    documents = load_documents()
    answers = [chain.invoke({"title": document.title, "text": document.text}) for document in documents]
    assert len(set(answers)) == len(documents)
    for document, answer in zip(documents, answers, strict=True):
        assert re.sub(r"</?[\w-]+>", "", answer).strip()
        if document.language == "hi":
            told = [part.strip() for part in answer.replace("।", "।\n").split("\n") if part.strip()]
            assert told
            assert all(part in document.text for part in told)


def test_a_short_question_is_quoted():
    assert "“How are you?”" in text_of("How are you?")
    assert text_of("How are you?").startswith("You asked")


def test_the_same_prompt_gets_the_same_answer():
    assert ask("What is it?", n=3) == ask("What is it?", n=3)


def test_choices_differ(long_text):
    texts = [choice.text for choice in ask(long_text, n=3).choices]
    assert len(set(texts)) == 3


def test_the_prompt_counts_once_and_the_output_of_every_choice(long_text):
    one, three = ask(long_text), ask(long_text, n=3)
    assert one.usage.input_tokens == three.usage.input_tokens
    assert three.usage.output_tokens == sum(len(choice.pieces) for choice in three.choices)


def test_stop_ends_the_answer_before_it(long_text):
    whole = text_of(long_text)
    word = whole.split()[3]
    assert text_of(long_text, stop=[word]) == whole.split(word)[0]
    assert text_of(long_text, stop=word) == whole.split(word)[0]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts_the_answer(name, long_text):
    choice = ask(long_text, **{name: 5}).choices[0]
    assert choice.finish_reason == "length"
    assert choice.visible_tokens == 5
    assert text_of(long_text).startswith(choice.text)


def test_a_limit_cuts_tool_arguments(long_text):
    reply = ask("add_numbers 3 4", tools=[ADD], max_tokens=9)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.output_tokens <= 9


@pytest.mark.parametrize(
    ("model", "effort", "tokens"),
    [("o3", "low", 64), ("gpt-5-mini", "high", 256), ("gpt-5", None, 0), ("gpt-5", "minimal", 0),
     ("gpt-4.1", "high", 0), ("omni", "high", 0)],
)  # fmt: skip
def test_reasoning_models_reason_when_told_to(model, effort, tokens):
    usage = compose(
        read_chat(
            {
                "model": model,
                "messages": [{"role": "user", "content": "Hi"}],
                "reasoning_effort": effort,
            }
        )
    ).usage
    assert usage.reasoning_tokens == tokens
    assert usage.output_tokens > tokens


def test_reasoning_can_use_up_the_limit():
    reply = compose(
        read_chat(
            {
                "model": "o3",
                "messages": [{"role": "user", "content": "Hi"}],
                "reasoning_effort": "high",
                "max_completion_tokens": 50,
            }
        )
    )
    assert reply.choices[0].text == ""
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.output_tokens == reply.usage.reasoning_tokens == 50


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("What is the weather in Rome?", ["get_weather"]),
        ("Please use get_weather_forecast now", ["get_weather_forecast"]),
        ("The weather forecast for Rome", ["get_weather_forecast"]),
        ("Add the numbers 1 and 2, and tell me the weather", ["get_weather", "add_numbers"]),
        ("Hello", []),
        ("How do I get there?", []),
    ],
)
def test_auto_calls_what_the_message_mentions(text, called):
    assert calls_of(text, tools=[WEATHER, FORECAST, ADD]) == called


def test_no_parallel_calls_when_forbidden():
    text = "Add the numbers 1 and 2, and tell me the weather"
    assert calls_of(text, tools=[WEATHER, ADD], parallel_tool_calls=False) == ["get_weather"]


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("required", ["get_weather"]),
        ("none", []),
        ({"type": "function", "function": {"name": "add_numbers"}}, ["add_numbers"]),
        ({"type": "function", "name": "add_numbers"}, ["add_numbers"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [ADD]}},
            ["add_numbers"],
        ),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [ADD]}}, []),
    ],
)
def test_tool_choice(choice, called):
    assert calls_of("Hello weather", tools=[WEATHER, ADD], tool_choice=choice) == called


def test_arguments_come_from_the_message():
    call = ask("What is the weather in Rome?", tools=[WEATHER]).choices[0].tool_calls[0]
    assert json.loads(call.arguments) == {"city": "Rome"}
    call = ask("add_numbers 3 4", tools=[ADD]).choices[0].tool_calls[0]
    assert json.loads(call.arguments) == {"a": 3, "b": 4}


CALLED = [
    {"role": "user", "content": "What is the weather in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": "{}"},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "It is sunny."},
]


def test_a_tool_result_is_answered_with_text():
    assert "It is sunny." in text_of(CALLED, tools=[WEATHER])


def test_required_tools_move_on_so_that_an_agent_ends():
    assert calls_of(CALLED, tools=[WEATHER, ADD, FORECAST], tool_choice="required") == [
        "get_weather_forecast"
    ]


def test_json_mode_uses_the_quoted_keys():
    text = "Tell me a joke as JSON with 'setup' and 'punchline' keys."
    made = json.loads(text_of(text, response_format={"type": "json_object"}))
    assert set(made) == {"setup", "punchline"}
    assert all(made.values())


def test_json_mode_without_keys_gives_a_useful_object(long_text):
    made = json.loads(text_of(long_text, response_format={"type": "json_object"}))
    assert made["answer"] in long_text
    assert made["keywords"]


def test_json_schema_is_filled():
    schema = {"properties": {"age": {"type": "integer"}}, "required": ["age"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(text_of("She is 41.", response_format=form)) == {"age": 41}


def test_tools_and_schemas_cost_prompt_tokens():
    plain = ask("Hello").usage.input_tokens
    assert ask("Hello", tools=[WEATHER]).usage.input_tokens > plain


@pytest.mark.parametrize(
    "content",
    [
        None, "", [], [{"type": "text", "text": "Hi"}], ["Hi"],
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
        [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}],
        [{"type": "file", "file": {"file_data": "AAAA"}}],
        [{"type": "refusal", "refusal": "No."}], [{}], [None], {"odd": 1}, 5,
    ],
)  # fmt: skip
def test_no_content_is_too_strange(content):
    reply = ask([{"role": "user", "content": content}])
    assert reply.usage.output_tokens > 0
    assert reply.usage.input_tokens > 0


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "model"),
        ({"model": "m", "messages": ["Hello"]}, "messages[0]"),
        ({"model": "m", "messages": [{"role": "king"}]}, "messages[0].role"),
        ({"model": "m", "messages": [{"role": []}]}, "messages[0].role"),
        ({"model": "m", "messages": [{"role": "user"}], "n": 0}, "n"),
        ({"model": "m", "messages": [{"role": "user"}], "n": 1_000}, "n"),
        ({"model": "m", "messages": [{"role": "user"}], "max_tokens": "5"}, "max_completion_tokens"),
        ({"model": "m", "messages": [{"role": "user"}], "tool_choice": "required"}, "tool_choice"),
        (
            {
                "model": "m",
                "messages": [{"role": "user"}],
                "tools": [ADD],
                "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
            },
            "tool_choice",
        ),
        (
            {
                "model": "m",
                "messages": [{"role": "user"}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "answer"}},
            },
            "response_format.json_schema.schema",
        ),
    ],
)
def test_invalid_requests_name_the_parameter(request_, param):
    with pytest.raises(ApiError) as caught:
        read_chat(request_)
    assert caught.value.status == 400
    assert caught.value.param == param


@pytest.mark.parametrize(
    "schema", [{"type": "integer", "minimum": "low"}, {"type": "array", "minItems": "two"}]
)
def test_a_schema_that_makes_no_sense_is_its_authors_mistake(schema):
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    with pytest.raises(ApiError) as caught:
        ask("Hello", response_format=form)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json_schema")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "text", "function", "name", "tool_calls", "parameters",
                 "properties", "enum", "items", "required", "minItems", "$ref", "anyOf", "output"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip
names = st.sampled_from(
    ["tools", "tool_choice", "response_format", "stop", "n", "max_tokens", "reasoning_effort",
     "text", "reasoning", "instructions", "stream_options"]
)  # fmt: skip


@given(json_values, st.dictionaries(names, json_values, max_size=3))
def test_any_json_ends_in_an_answer_or_an_api_error(value, extra):
    message = value if isinstance(value, dict) else {"role": "user", "content": value}
    for read, request in (
        (read_chat, {"model": "m", "messages": [message], **extra}),
        (read_responses, {"model": "m", "input": [message], **extra}),
    ):
        with contextlib.suppress(ApiError):
            assert compose(read(request)).usage.total_tokens > 0
