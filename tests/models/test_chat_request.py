"""What a call's options add to its prompt: bounded where it is seen, learnt from only where all of it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from lc_service import Budget, BudgetExceeded, ReliableChatOpenAI, track_usage
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.tokenizer import TokenEstimator, estimator_for
from lc_service.models.chat_request import chat_request

PIRATE = "Always answer like a pirate from the south. " * 40
HARBOUR = "Describe the harbour of a small town at dawn: the boats, the birds, the people who work there. "
LETTER = "Invoice 17 of ACME Ltd, 100 EUR and 19 EUR VAT, due at the end of the month. " + HARBOUR * 6
PROFILE = {"max_input_tokens": 5_000_000, "max_output_tokens": 1_000}


class Line(BaseModel):
    """One line of an invoice, as printed."""

    text: str = Field(description="What was sold")
    net: float | None = Field(default=None, description="Net amount, 数量和价格")


class Invoice(BaseModel):
    """The data of an invoice."""

    number: str = Field(description="The invoice number as printed, without spaces")
    date: str = Field(description="The date of issue as YYYY-MM-DD")
    seller: str = Field(description="Legal name of the company that sends the invoice")
    buyer: str = Field(description="Legal name of the company or person that receives it")
    currency: str = Field(description="ISO 4217 code")
    items: list[Line] = Field(description="One line for each item that is billed")


class Kept:
    """A ledger that keeps its records."""

    def __init__(self) -> None:
        self.records: list[AttemptRecord] = []

    def record(self, record: AttemptRecord) -> None:
        self.records.append(record)


@tool
def look_up(word: str) -> str:
    """Look a word up in the harbour's dictionary."""
    return word


FUNCTION = {"name": "f", "description": PIRATE, "parameters": {"type": "object", "properties": {}}}
SCHEMA = Invoice.model_json_schema()
FORMAT = {"type": "json_schema", "json_schema": {"name": "Invoice", "schema": SCHEMA}}
FLAT_FORMAT = {"type": "json_schema", "name": "Invoice", "schema": SCHEMA}

SEEN: list[tuple[str, dict[str, Any], Callable[[Any], Any]]] = [
    ("plain", {}, lambda m: m.invoke("hi")),
    ("pydantic", {}, lambda m: m.with_structured_output(Invoice).invoke("hi")),
    ("pydantic stream", {}, lambda m: list(m.with_structured_output(Invoice).stream("hi"))),
    ("class", {}, lambda m: m.invoke("hi", response_format=Invoice)),
    ("dict", {}, lambda m: m.with_structured_output(SCHEMA | {"title": "Invoice"}).invoke("hi")),
    ("function calling", {},
     lambda m: m.with_structured_output(Invoice, method="function_calling").invoke("hi")),
    ("json_object", {}, lambda m: m.bind(response_format={"type": "json_object"}).invoke("hi")),
    ("format", {}, lambda m: m.invoke("hi", response_format=FORMAT)),
    ("model's format", {"model_kwargs": {"response_format": FORMAT}}, lambda m: m.invoke("hi")),
    ("extra format", {"extra_body": {"response_format": FORMAT}}, lambda m: m.invoke("hi")),
    ("functions", {}, lambda m: m.invoke("hi", functions=[FUNCTION])),
    ("tools", {}, lambda m: m.bind_tools([look_up], tool_choice="any").invoke("hi")),
    ("extra n", {}, lambda m: m.invoke("hi", extra_body={"n": 5})),
    ("model's extra n", {"extra_body": {"n": 5}}, lambda m: m.invoke("hi")),
    ("extra limit", {}, lambda m: m.invoke("hi", extra_body={"max_completion_tokens": 400})),
    ("instructions", {"use_responses_api": True}, lambda m: m.invoke("hi", instructions=PIRATE)),
    ("model's instructions", {"use_responses_api": True, "model_kwargs": {"instructions": PIRATE}},
     lambda m: m.invoke("hi")),
    ("responses pydantic", {"use_responses_api": True},
     lambda m: m.with_structured_output(Invoice).invoke("hi")),
    ("responses pydantic stream", {"use_responses_api": True},
     lambda m: list(m.with_structured_output(Invoice).stream("hi"))),
    ("responses text", {"use_responses_api": True}, lambda m: m.invoke("hi", text={"format": FLAT_FORMAT})),
    ("responses tools", {"use_responses_api": True}, lambda m: m.bind_tools([look_up]).invoke("hi")),
    ("responses limit", {"use_responses_api": True}, lambda m: m.invoke("hi", max_tokens=400)),
]  # fmt: skip


# LangChain dumps the SDK's parsed events, which pydantic remarks on.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize(("options", "call"), [row[1:] for row in SEEN], ids=[row[0] for row in SEEN])
def test_a_strict_reservation_holds_what_is_billed(options, call, simulate, make_model):
    server, kept, budget = simulate(), Kept(), Budget(tokens=100_000, strict=True)
    model = make_model(budget=budget, ledger=kept, max_tokens=50, model="gpt-bounded", **options)
    with contextlib.suppress(
        openai.LengthFinishReasonError, ValueError
    ):  # 50 tokens are too few for the JSON
        call(model)
    assert server.bill.requests == len(kept.records) == 1
    assert kept.records[0].reserved_tokens >= server.bill.total.total_tokens > 0
    assert kept.records[0].reserved_tokens < 9_000  # by the bytes, not by the model's window

    tight = Budget(tokens=server.bill.total.total_tokens - 1, strict=True)
    with pytest.raises(BudgetExceeded):
        call(make_model(budget=tight, max_tokens=50, model="gpt-bounded", **options))
    assert server.bill.requests == 1


def _request(model: Any, messages: Any = None, **options: Any) -> Any:
    return chat_request(model, TokenEstimator("unknown"), messages or [HumanMessage(LETTER)], options)


UNSEEN: list[dict[str, Any]] = [
    {"conversation": "conv_1"},
    {"prompt": {"id": "pmpt_1"}},
    {"previous_response_id": "resp_1"},
    {"tools": [{"type": "web_search"}]},
    {"tools": [{"type": "mcp", "server_label": "x", "server_url": "y"}]},
    {"web_search_options": {}},
    {"prediction": {"type": "content", "content": PIRATE}},
    {"modalities": ["text", "audio"], "audio": {"voice": "x", "format": "wav"}},
    {"context_management": [{"type": "compaction"}]},
    {"extra_body": {"chat_template_kwargs": {"x": 1}}},
    {"extra_body": {"messages": [{"role": "user", "content": PIRATE}]}},
    {"extra_body": {"input": PIRATE}},
    {"extra_body": {"response_format": "what?"}},
    {"response_format": {"type": "grammar"}},
    {"something_new": 1},
]


@pytest.mark.parametrize("options", UNSEEN, ids=lambda options: "+".join(str(each) for each in options))
def test_what_may_add_unseen_tokens_teaches_nothing_and_is_bounded_by_the_model_alone(options, make_model):
    request = _request(make_model(profile=PROFILE), **options)
    assert request.measure().tokens > 50
    assert request.measure().raw_tokens == 0
    assert request.bound() == 5_000_000
    assert _request(make_model(profile={}), **options).bound() is None


def test_what_adds_nothing_teaches_and_is_bounded_by_bytes(make_model):
    model = make_model(profile=PROFILE, temperature=0.5, seed=1, reasoning_effort="low", store=True)
    said = {"stop": ["x"], "tool_choice": "auto", "user": "me", "metadata": {"a": "b"}, "conversation": None}
    request = _request(model, **said, extra_body={"top_p": 0.5}, modalities=["text"])
    assert request.measure().raw_tokens == request.measure().tokens > 50
    assert len(LETTER) < request.bound() < len(LETTER) + 200


def test_a_picture_is_bounded_by_the_models_window_not_by_its_bytes(make_model):
    """A short link may lead to a large picture."""
    picture = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
    messages = [HumanMessage([{"type": "text", "text": "What is this?"}, picture])]
    assert _request(make_model(profile=PROFILE), messages).bound() == 5_000_000
    assert _request(make_model(profile={}), messages).bound() is None
    assert _request(make_model(profile={}), [HumanMessage("What is this?")]).bound() < 100


def test_a_prompt_cut_short_teaches_nothing_but_is_bounded(make_model):
    request = _request(make_model(truncation="auto"))
    assert request.measure().raw_tokens == 0
    assert request.bound() < 1_000
    assert _request(make_model(truncation="disabled")).measure().raw_tokens > 50


def test_earlier_answers_that_the_server_adds_teach_nothing(make_model):
    model = make_model(use_previous_response_id=True, profile=PROFILE)
    earlier = AIMessage("Hello", response_metadata={"id": "resp_1"})
    request = _request(model, [HumanMessage("hi"), earlier, HumanMessage(LETTER)])
    assert (request.measure().raw_tokens, request.bound()) == (0, 5_000_000)
    assert _request(model).measure().raw_tokens > 50
    assert _request(model).bound() < 1_000


@pytest.mark.parametrize(
    ("fields", "options", "most"),
    [
        ({"max_tokens": 300}, {"max_tokens": 10}, 10),
        ({"max_tokens": 300, "n": 2}, {}, 600),
        ({"max_tokens": 300}, {"extra_body": {"n": 4}}, 1_200),
        ({"max_tokens": 300, "extra_body": {"max_completion_tokens": 4_000}}, {}, 4_000),
        ({"extra_body": {"n": 4}}, {"extra_body": {}}, 1_000),  # the call's takes the place of the model's
        ({}, {}, 1_000),
    ],
)
def test_the_longest_answer_is_what_the_wire_says(fields, options, most, make_model):
    assert _request(make_model(profile=PROFILE, **fields), **options).max_output_tokens == most


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_the_limit_is_the_one_langchain_sends(use_responses_api, simulate, make_model):
    server = simulate()
    model = make_model(max_tokens=30, use_responses_api=use_responses_api)
    model.invoke("hi", max_tokens=40)
    body = json.loads(server.requests[0].body)
    sent = body.get("max_output_tokens") or body.get("max_completion_tokens")
    assert _request(model, max_tokens=40).max_output_tokens == sent


@pytest.mark.parametrize("use_responses_api", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_estimated_and_spoils_no_count(
    method, use_responses_api, simulate, make_model, monkeypatch
):
    server, estimates = simulate(), []

    def noted(*args: Any, **kwargs: Any) -> Any:
        request = chat_request(*args, **kwargs)
        estimates.append(request.measure().tokens)
        return request

    monkeypatch.setattr("lc_service.models.reliable_chat.chat_request", noted)
    model = make_model(model=f"served-{method}-{use_responses_api}", use_responses_api=use_responses_api)
    before = model.get_num_tokens(HARBOUR)
    structured = model.with_structured_output(Invoice, method=method, include_raw=True)
    for number in range(40):
        structured.invoke(f"{number}. Answer in JSON. {LETTER}")
    assert server.bill.requests == len(estimates) == 40
    assert estimates[0] == pytest.approx(server.requests[0].usage.input_tokens, rel=0.35)
    assert estimates[-1] == pytest.approx(server.requests[-1].usage.input_tokens, rel=0.35)
    assert model.get_num_tokens(HARBOUR) == pytest.approx(before, rel=0.15)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {"extra_body": {"functions_of_tomorrow": [FUNCTION]}}),
        ({}, {"prediction": {"type": "content", "content": PIRATE}}),
        ({"use_responses_api": True}, {"conversation": "conv_1"}),
        ({"use_responses_api": True}, {"previous_response_id": "resp_1"}),
    ],
)
def test_calls_with_unseen_parts_leave_the_scale_alone(fields, options, simulate, make_model):
    server = simulate()
    model = make_model(model="gpt-unmoved", **fields)
    for _ in range(3):
        model.invoke(LETTER, **options)
    assert server.bill.requests == 3
    assert estimator_for("gpt-unmoved").scale == 1.0
    make_model(model="gpt-moved").invoke(LETTER)
    assert estimator_for("gpt-moved").scale != 1.0


def test_instructions_are_counted_so_that_they_may_teach(simulate, make_model):
    simulate()
    model = make_model(model="gpt-instructed", use_responses_api=True)
    before = model.get_num_tokens(HARBOUR)
    for _ in range(40):
        model.invoke("hi", instructions=PIRATE)
    assert model.get_num_tokens(HARBOUR) == pytest.approx(before, rel=0.15)
    assert estimator_for("gpt-instructed").scale != 1.0


class TestSeam:
    """`_get_request_payload` tells what is sent beside the messages, asked without any."""

    @pytest.mark.parametrize("use_responses_api", [False, True])
    def test_it_takes_no_messages(self, use_responses_api):
        model = ChatOpenAI(api_key="sk-x", model="gpt-4.1", max_tokens=7, use_responses_api=use_responses_api)
        payload = model._get_request_payload([], response_format=Invoice, extra_body={"n": 2})
        assert payload.pop("input" if use_responses_api else "messages") == []
        assert payload.pop("max_output_tokens" if use_responses_api else "max_completion_tokens") == 7
        assert payload.pop("text_format" if use_responses_api else "response_format") is Invoice
        assert payload == {"model": "gpt-4.1", "stream": False, "extra_body": {"n": 2}}


def test_a_subclass_that_needs_messages_for_its_payload_still_works(simulate: Any, make_model: Any) -> None:
    class Picky(ReliableChatOpenAI):
        def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
            assert input_[-1].content
            return super()._get_request_payload(input_, stop=stop, **kwargs)

    server = simulate()
    with track_usage() as usage:
        make_model(cls=Picky).invoke("Hello")
        list(make_model(cls=Picky).stream("Hello"))
    assert usage.total.total_tokens == server.bill.total.total_tokens > 0
