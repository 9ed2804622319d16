"""What a client sees on the wire, fault by fault, and what is billed for it."""

from __future__ import annotations

import contextlib
import email.utils
import json

import httpx2
import pytest

from lc_service.simulator import Fault, FaultPlan, ServerLimits, Usage
from lc_service.simulator.tokens import count_tokens

HINTS = {"retry-after-ms", "retry-after", "x-ratelimit-remaining-requests",
         "x-ratelimit-reset-requests"}  # fmt: skip

PLAIN_ERRORS = {
    # kind: status, type, code
    "rate_limit": (429, "requests", "rate_limit_exceeded"),
    "rate_limit_seconds": (429, "requests", "rate_limit_exceeded"),
    "rate_limit_date": (429, "requests", "rate_limit_exceeded"),
    "rate_limit_reset": (429, "requests", "rate_limit_exceeded"),
    "rate_limit_bare": (429, "requests", "rate_limit_exceeded"),
    "request_too_large": (429, "tokens", "rate_limit_exceeded"),
    "insufficient_quota": (429, "insufficient_quota", "insufficient_quota"),
    "server_error": (500, "server_error", None),
    "error_event": (500, "server_error", None),
    "unavailable": (503, "service_unavailable_error", None),
    "gateway_timeout": (504, "server_error", None),
    "context_length": (400, "invalid_request_error", "context_length_exceeded"),
    "bad_request": (400, "invalid_request_error", None),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key"),
    "forbidden": (403, "invalid_request_error", "unsupported_country_region_territory"),
    "not_found": (404, "invalid_request_error", "model_not_found"),
    "timeout": (408, "server_error", None),
    "conflict": (409, "invalid_request_error", None),
    "unprocessable": (422, "invalid_request_error", None),
}
OTHER_KINDS = {
    "bad_gateway", "reset", "slow", "stall", "cut", "no_finish", "not_json", "broken_json",
}  # fmt: skip


def test_every_kind_is_tested_here():
    assert set(PLAIN_ERRORS) | OTHER_KINDS == set(Fault.KINDS)


@pytest.mark.parametrize("kind", PLAIN_ERRORS)
def test_errors_with_a_body(wire_to, kind):
    wire = wire_to(faults=[kind, "ok"])
    response = wire.chat()
    status, type_, code = PLAIN_ERRORS[kind]
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (type_, code)
    assert response.headers["x-request-id"] == "req_000001"
    if kind not in {"rate_limit", "rate_limit_seconds", "rate_limit_date", "rate_limit_reset"}:
        assert not HINTS & set(response.headers)
    assert wire.sim.bill.requests == 0
    assert wire.chat().status_code == 200
    assert [(r.status, r.fault, r.attempt) for r in wire.sim.requests] == [
        (status, kind, 1),
        (200, None, 2),
    ]


@pytest.mark.parametrize(
    ("kind", "seconds", "expected"),
    [
        ("rate_limit", 0.02, {"retry-after-ms": "20", "retry-after": "1"}),
        ("rate_limit", 2.5, {"retry-after-ms": "2500", "retry-after": "3"}),
        ("rate_limit_seconds", 0.02, {"retry-after": "0.02"}),
        ("rate_limit_seconds", 3, {"retry-after": "3"}),
        (
            "rate_limit_reset",
            61.5,
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m1.5s"},
        ),
    ],
)
def test_the_forms_of_a_hint(wire_to, kind, seconds, expected):
    headers = wire_to(faults=[Fault(kind, retry_after_seconds=seconds)]).chat().headers
    assert {name: headers[name] for name in HINTS & set(headers)} == expected


def test_a_hint_as_a_date_comes_with_the_servers_date(wire_to):
    headers = wire_to(faults=[Fault("rate_limit_date", retry_after_seconds=4.2)]).chat().headers
    now, then = (email.utils.parsedate_to_datetime(headers[name]) for name in ("date", "retry-after"))
    assert (then - now).total_seconds() == 5


def test_request_too_large_says_how_large(wire_to):
    message = wire_to(faults=["request_too_large"]).chat().json()["error"]["message"]
    assert message.startswith("Request too large for gpt-4.1-mini")
    assert "on tokens per min (TPM): Limit " in message
    assert ", Requested " in message


def test_a_fault_can_bring_its_own_message(wire_to):
    wire = wire_to(faults=[Fault("server_error", message="Out of coffee.")])
    assert wire.chat().json()["error"]["message"] == "Out of coffee."


def test_bad_gateway_is_a_page(wire_to):
    response = wire_to(faults=["bad_gateway"]).chat()
    assert response.status_code == 502
    assert response.headers["content-type"].startswith("text/html")
    assert "502 Bad Gateway" in response.text


@pytest.mark.parametrize("is_stream", [False, True])
def test_reset_breaks_the_connection_before_any_byte(wire_to, is_stream):
    wire = wire_to(faults=["reset"])
    with pytest.raises(httpx2.ReadError, match="reset"):
        wire.chat(stream=is_stream)
    assert wire.sim.bill.requests == 0
    assert wire.sim.requests[0].status is None


@pytest.mark.parametrize("is_stream", [False, True])
def test_not_json_is_a_page_with_status_200(wire_to, is_stream):
    wire = wire_to(faults=["not_json"])
    response = wire.chat(stream=is_stream)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert wire.sim.bill.requests == 0


@pytest.mark.parametrize("is_stream", [False, True])
def test_broken_json_does_not_parse(wire_to, is_stream):
    wire = wire_to(faults=["broken_json"])
    response = wire.chat(stream=is_stream)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    with pytest.raises(json.JSONDecodeError):
        response.json()
    assert wire.sim.bill.requests == 0


def test_slow_is_late_and_whole(wire_to):
    wire = wire_to(faults=[Fault("slow", delay_seconds=0.03)])
    assert wire.chat().json()["choices"][0]["finish_reason"] == "stop"
    assert wire.sim.bill.interrupted_requests == 0


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_nobody_waits_for_is_billed_and_counts_as_failed(wire_to, is_stream):
    wire = wire_to(faults=[Fault("slow", delay_seconds=30)])
    with pytest.raises(httpx2.ReadTimeout):
        wire.client.post("/chat/completions", json=wire.body(stream=is_stream), timeout=0.03)
    assert wire.sim.wait_until_idle()
    usage = wire.chat(stream=is_stream) and wire.sim.requests[1].usage
    first = wire.sim.requests[0].usage
    assert first.input_tokens == usage.input_tokens
    assert first.output_tokens == (0 if is_stream else usage.output_tokens)
    assert wire.sim.bill.interrupted_requests == 1
    assert wire.sim.requests[1].attempt == 2


def content_of(events) -> str:
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if "choices" in e)


@pytest.mark.parametrize("kind", ["cut", "stall"])
@pytest.mark.parametrize("chunks", [0, 1, 4])
def test_broken_streams_end_after_their_chunks(wire_to, kind, chunks):
    wire = wire_to(faults=[Fault(kind, after_chunks=chunks, delay_seconds=0.01)])
    events, error = wire.broken_stream("/chat/completions", **wire.body())
    assert isinstance(error, httpx2.RemoteProtocolError)
    assert count_tokens(content_of(events)) == chunks
    assert len(events) == (chunks + 1 if chunks else 0)
    usage = wire.sim.bill.total
    assert usage.output_tokens == chunks
    assert usage.input_tokens > 0
    assert wire.sim.bill.interrupted_requests == 1


@pytest.mark.parametrize("kind", ["cut", "stall"])
def test_broken_plain_answers_are_billed_in_full(wire_to, kind):
    wire = wire_to(faults=[Fault(kind, delay_seconds=0.01), "ok"])
    with pytest.raises(httpx2.RemoteProtocolError):
        wire.chat()
    assert wire.sim.bill.interrupted_requests == 1
    wire.chat()
    first, second = wire.sim.requests
    assert first.usage == second.usage
    assert (first.status, second.attempt) == (200, 2)


def test_a_stall_ends_early_when_the_client_goes(wire_to):
    wire = wire_to(faults=[Fault("stall", after_chunks=1, delay_seconds=60)])
    with (
        pytest.raises(httpx2.ReadTimeout),
        wire.client.stream(
            "POST", "/chat/completions", json=wire.body(stream=True), timeout=0.03
        ) as response,
    ):
        list(response.iter_text())
    assert wire.sim.wait_until_idle()


def test_a_fault_beyond_the_end_still_has_no_end(wire_to):
    wire = wire_to(faults=[Fault("cut", after_chunks=10_000)])
    events, error = wire.broken_stream("/chat/completions", **wire.body())
    assert error is not None
    assert all(event["choices"][0]["finish_reason"] is None for event in events)


def test_no_finish_ends_cleanly_without_saying_so(wire_to):
    wire = wire_to(faults=["no_finish", "no_finish"])
    events = wire.chat_stream(stream_options={"include_usage": True})
    assert "[DONE]" not in events
    assert all(event["choices"][0]["finish_reason"] is None for event in events)
    assert all(event["usage"] is None for event in events)
    plain = wire.chat().json()
    assert plain["choices"][0]["finish_reason"] is None
    assert plain["choices"][0]["message"]["content"] == content_of(events)
    assert wire.sim.bill.interrupted_requests == 2
    assert wire.sim.bill.total.output_tokens == 2 * plain["usage"]["completion_tokens"]


@pytest.mark.parametrize("chunks", [0, 2])
def test_an_error_event_ends_the_stream(wire_to, chunks):
    wire = wire_to(faults=[Fault("error_event", after_chunks=chunks)])
    events = wire.chat_stream()
    assert events[-1]["error"]["type"] == "server_error"
    assert len(events) == (chunks + 2 if chunks else 1)
    assert wire.sim.bill.requests == (1 if chunks else 0)
    assert wire.sim.bill.total.output_tokens == chunks


def test_an_abandoned_stream_is_billed_as_far_as_it_got(wire_to):
    wire = wire_to(chunk_delay_seconds=0.01)
    with wire.client.stream("POST", "/chat/completions", json=wire.body(stream=True)) as response:
        next(response.iter_text())
    assert wire.sim.wait_until_idle()
    whole = wire.chat().json()["usage"]["completion_tokens"]
    assert 0 < wire.sim.requests[0].usage.output_tokens < whole
    assert wire.sim.bill.interrupted_requests == 1


@pytest.mark.parametrize("path", ["/responses", "/embeddings"])
def test_faults_meet_the_other_endpoints_too(wire_to, path):
    wire = wire_to(faults=["cut", "no_finish", "server_error", "ok"])
    with pytest.raises(httpx2.RemoteProtocolError):
        wire.post(path, model="text-embedding-3-small", input="Hello")
    statuses = [wire.post(path, model="text-embedding-3-small", input="Hello").status_code for _ in range(3)]
    assert statuses == [200, 500, 200]


def test_a_seeded_run_repeats_itself(wire_to):
    kinds = ("rate_limit", "server_error", "not_json", "cut")

    def run(order) -> dict[str, list[str | None]]:
        wire = wire_to(faults=FaultPlan(seed=7, rate=0.5, kinds=kinds))
        met: dict[str, list[str | None]] = {}
        for number in order:
            for _ in range(3):
                with contextlib.suppress(httpx2.RemoteProtocolError):
                    wire.chat(f"Question {number}?")
                met.setdefault(f"{number}", []).append(wire.sim.requests[-1].fault)
        return met

    first = run(range(12))
    assert first == run(reversed(range(12)))
    assert {fault for faults in first.values() for fault in faults} == {None, *kinds}


def test_first_fails_each_request_once(wire_to):
    wire = wire_to(faults=FaultPlan.first("unavailable"))
    texts = ["one", "two", "one", "two", "one"]
    assert [wire.chat(text).status_code for text in texts] == [503, 503, 200, 200, 503]


def test_the_limits_answer_with_429_and_headers(wire_to, fake_clock):
    limits = ServerLimits(requests_per_minute=60, tokens_per_minute=60_000, burst_seconds=2)
    wire = wire_to(limits=limits, clock=lambda: fake_clock.time)
    headers = wire.chat(max_tokens=100).headers
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    charged = wire.sim.bill.total.input_tokens + 100
    assert headers["x-ratelimit-remaining-tokens"] == str(2_000 - charged)
    wire.chat()
    rejected = wire.chat()
    assert rejected.status_code == 429
    assert rejected.json()["error"]["code"] == "rate_limit_exceeded"
    assert rejected.json()["error"]["type"] == "requests"
    assert rejected.headers["retry-after-ms"] == "1000"
    assert rejected.headers["retry-after"] == "1"
    fake_clock.advance(1.0)
    assert wire.chat().status_code == 200
    assert wire.sim.bill.requests == 3
    assert [r.attempt for r in wire.sim.requests] == [1, 1, 1, 2]


def test_streams_carry_the_limits_headers_too(wire_to):
    wire = wire_to(limits=ServerLimits(requests_per_minute=600))
    response = wire.chat(stream=True)
    assert response.headers["x-ratelimit-limit-requests"] == "600"
    assert "x-ratelimit-limit-tokens" not in response.headers


def test_errors_by_fault_cost_no_capacity(wire_to, fake_clock):
    limits = ServerLimits(requests_per_minute=60)
    wire = wire_to(limits=limits, clock=lambda: fake_clock.time, faults=["server_error"] * 5)
    assert [wire.chat().status_code for _ in range(7)] == [500] * 5 + [200, 429]


def test_more_tokens_than_a_minute_has_can_never_be_served(wire_to):
    wire = wire_to(limits=ServerLimits(tokens_per_minute=500))
    response = wire.chat(max_tokens=1_000)
    assert response.status_code == 429
    assert response.json()["error"]["message"].startswith("Request too large for gpt-4.1-mini")
    assert response.json()["error"]["type"] == "tokens"
    assert "retry-after" not in response.headers


def test_a_missing_key_is_refused(wire):
    del wire.client.headers["authorization"]
    response = wire.chat()
    assert response.status_code == 401
    assert "didn't provide an API key" in response.json()["error"]["message"]


def test_a_wrong_key_is_refused_and_masked(wire_to):
    wire = wire_to(api_key="sk-right")
    response = wire.chat()
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert "sk-test-1234567890" not in response.text
    assert "sk-tes********7890" in response.text
    assert wire.sim.requests[0].authorization_masked == "sk-tes********7890"
    wire.client.headers["authorization"] = "Bearer sk-right"
    assert wire.chat().status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b"", b"\xff", b'{"model": 1e999}'])
def test_a_body_that_is_no_json_object_is_refused(wire, body):
    response = wire.client.post("/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_prompt_beyond_the_context_window_is_refused(wire_to):
    response = wire_to(context_window_tokens=20).chat()
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_the_bill_is_the_sum_of_the_usages(wire):
    usages = [wire.chat(f"Question {number}?", n=1 + number % 2).json()["usage"]
              for number in range(6)]  # fmt: skip
    events = wire.chat_stream(stream_options={"include_usage": True})
    usages.append(events[-2]["usage"])
    bill = wire.sim.bill
    assert bill.requests == 7
    assert bill.total == Usage(
        input_tokens=sum(usage["prompt_tokens"] for usage in usages),
        output_tokens=sum(usage["completion_tokens"] for usage in usages),
    )
    assert bill.by("gpt-4.1-mini", "chat").usage == bill.total


def test_a_body_in_many_packets_is_read_whole(wire):
    text = "word " * 40_000
    assert wire.chat(text).json()["usage"]["prompt_tokens"] > 40_000
