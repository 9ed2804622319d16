from __future__ import annotations

import json

import openai
import pytest

TOOL = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def ask(wire, given, **extra):
    return wire.post("/responses", model="gpt-5-mini", input=given, **extra).json()


def ask_stream(wire, given, **extra):
    return wire.stream("/responses", model="gpt-5-mini", input=given, **extra)


def test_the_plain_answer_has_openais_shape(wire, long_text):
    body = ask(wire, long_text)
    assert body["status"] == "completed"
    assert body["id"] == "resp_sim000001"
    assert body["output"][0]["content"][0]["text"] in long_text
    assert body["usage"]["input_tokens_details"]["cached_tokens"] == 0
    assert wire.sim.bill.by("gpt-5-mini", "chat").usage.output_tokens == (body["usage"]["output_tokens"])


def test_logprobs_come_where_they_are_asked_for(wire):
    include = ["message.output_text.logprobs"]
    part = ask(wire, "How are you?", include=include, top_logprobs=2)["output"][0]["content"][0]
    assert "".join(each["token"] for each in part["logprobs"]) == part["text"]
    assert {len(each["top_logprobs"]) for each in part["logprobs"]} == {2}
    assert all(each["logprob"] <= 0 for each in part["logprobs"])
    assert ask(wire, "How are you?", top_logprobs=2)["output"][0]["content"][0]["logprobs"] == []


def test_the_events_come_in_the_official_order(wire):
    events = ask_stream(wire, "How are you?")
    kinds = [event["type"] for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", *["response.output_text.delta"] * deltas,
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize(
    "extra", [{}, {"max_output_tokens": 6}, {"reasoning": {"effort": "low"}}, {"tools": [TOOL]}]
)
def test_the_stream_ends_with_the_plain_answer(wire, extra):
    given = "What is the weather in Rome?"
    plain = ask(wire, given, **extra)
    wire.sim.reset()  # the same request number, hence the same ids
    events = ask_stream(wire, given, **extra)
    assert events[-1]["response"] == plain
    pieces = [event["delta"] for event in events if event["type"].endswith(".delta")]
    item = plain["output"][-1]
    whole = item["arguments"] if "arguments" in item else item["content"][0]["text"]
    assert "".join(pieces) == whole


def test_a_limit_makes_it_incomplete(wire):
    body = ask(wire, "How are you?", max_output_tokens=3)
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert ask_stream(wire, "Hi?", max_output_tokens=3)[-1]["type"] == "response.incomplete"


def test_tools_and_their_results(wire):
    call = ask(wire, "What is the weather in Rome?", tools=[TOOL])["output"][0]
    assert call["type"] == "function_call"
    assert json.loads(call["arguments"]) == {"city": "Rome"}
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "The weather in Rome?"}]},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny."},
    ]
    assert "Sunny." in ask(wire, given, tools=[TOOL])["output"][0]["content"][0]["text"]


def test_a_forced_tool_in_the_flat_shape(wire):
    choice = {"type": "function", "name": "get_weather"}
    assert ask(wire, "Hello", tools=[TOOL], tool_choice=choice)["output"][0]["name"] == ("get_weather")


def test_structured_text(wire):
    schema = {"properties": {"age": {"type": "integer"}}, "required": ["age"]}
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    text = ask(wire, "She is 41.", text=form)["output"][0]["content"][0]["text"]
    assert json.loads(text) == {"age": 41}


def test_instructions_count_as_input(wire):
    short = ask(wire, "Hello")["usage"]["input_tokens"]
    assert ask(wire, "Hello", instructions="Be kind.")["usage"]["input_tokens"] > short


def test_input_is_required(wire):
    response = wire.post("/responses", model="gpt-5-mini")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input"


def test_an_error_event_is_the_apis_own(wire_to):
    wire = wire_to(faults=["error_event"])
    events = ask_stream(wire, "How are you?")
    assert events[-1]["type"] == "error"
    assert events[-1]["sequence_number"] == len(events) - 1


def test_no_finish_lacks_the_completion(wire_to):
    wire = wire_to(faults=["no_finish"])
    kinds = [event["type"] for event in ask_stream(wire, "How are you?")]
    assert kinds[-1] == "response.output_item.done"
    assert "response.completed" not in kinds


def test_the_sdk_reads_all_of_it(wire):
    with openai.OpenAI(base_url=wire.sim.base_url, api_key="sk-x", max_retries=0) as client:
        plain = client.responses.create(model="gpt-5", input="How are you?")
        with client.responses.stream(model="gpt-5", input="How are you?") as stream:
            final = stream.until_done().get_final_response()
    assert final.output_text == plain.output_text
    assert final.usage == plain.usage
