"""Between a model and its limiter: which one it is, and what each end of an attempt tells it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx2
import openai
import pytest
from pydantic import SecretStr

from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.usage import TokenUsage
from lc_service.limits.admission import Outcome
from lc_service.limits.rate_limits import RateLimits
from lc_service.models.flow import limiter_of, outcome, response_headers

USED = TokenUsage(input_tokens=7, output_tokens=5)


def record(**about: Any) -> AttemptRecord:
    return AttemptRecord(run_id=uuid4(), model="m", usage=USED, **about)


def refused(
    status: int, kind: str | None = None, code: str | None = None, **headers: str
) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://server/v1/chat/completions")
    response = httpx2.Response(status, headers=headers, request=request)
    types: dict[int, type[openai.APIStatusError]] = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        429: openai.RateLimitError,
    }
    made = types.get(status, openai.InternalServerError)
    return made("no", response=response, body={"type": kind, "code": code})


def failed(error: Exception) -> Outcome:
    status = getattr(error, "status_code", None)
    return outcome(error, record(status=AttemptStatus.FAILED, status_code=status))


# Which limiter


def model(**about: Any) -> Any:
    given = {"rate_limits": "auto", "openai_api_key": SecretStr("a"), "openai_organization": None}
    return SimpleNamespace(**(given | about))


def request(server: str = "http://server/v1", name: str = "m") -> Any:
    return SimpleNamespace(server=server, model=name)


def test_models_of_one_endpoint_key_and_name_share_a_limiter():
    limiter = limiter_of(model(), request())
    assert limiter is not None
    assert limiter_of(model(openai_api_key=SecretStr("a")), request()) is limiter
    assert limiter_of(model(rate_limits=RateLimits()), request()) is limiter


@pytest.mark.parametrize(
    ("one", "asked"),
    [
        (model(openai_api_key=SecretStr("b")), request()),
        (model(openai_organization="o"), request()),
        (model(rate_limits=RateLimits(requests_per_minute=5)), request()),
        (model(), request("http://elsewhere/v1")),
        (model(), request(name="n")),
    ],
)
def test_any_other_endpoint_key_organization_name_or_cap_has_its_own(one, asked):
    assert limiter_of(one, asked) is not limiter_of(model(), request())


def test_a_key_that_is_fetched_by_a_function_is_known_by_it():
    def fetch() -> str:
        raise AssertionError("asked for the key")

    assert limiter_of(model(openai_api_key=fetch), request()) is limiter_of(
        model(openai_api_key=fetch), request()
    )


def test_switched_off_is_no_limiter():
    assert limiter_of(model(rate_limits=None), request()) is None


# How an attempt ended


def test_a_whole_answer_was_let_in_and_tells_its_latency_and_tokens():
    said = outcome(None, record(latency_seconds=0.5, status_code=200))
    assert said == Outcome(is_admitted=True, used_tokens=12, latency_seconds=0.5)


def test_a_stream_takes_as_long_as_its_reader_and_tells_no_latency():
    said = outcome(None, record(latency_seconds=9.0, is_stream=True, status_code=200))
    assert said == Outcome(is_admitted=True, used_tokens=12)


@pytest.mark.parametrize("certainty", [Certainty.ESTIMATED, Certainty.UNKNOWN])
def test_what_was_not_measured_is_not_given_back(certainty):
    assert outcome(None, record(certainty=certainty)).used_tokens is None


@pytest.mark.parametrize("status", [AttemptStatus.CANCELLED, AttemptStatus.ABANDONED])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), GeneratorExit()])
def test_an_attempt_that_its_caller_ended_tells_nothing_about_limits(status, error):
    said = outcome(error, record(status=status, certainty=Certainty.UNKNOWN))
    assert said == Outcome()


@pytest.mark.parametrize(("kind", "exceeded"), [("tokens", "tokens"), ("requests", "requests"), ("x", None)])
def test_a_rejection_names_the_limit_and_the_wait(kind, exceeded):
    said = failed(refused(429, kind, "rate_limit_exceeded", **{"retry-after": "3"}))
    assert said == Outcome(
        is_admitted=False, is_rejected=True, exceeded=exceeded, retry_after_seconds=3.0, used_tokens=12
    )


def test_a_rejection_may_say_nothing():
    said = failed(refused(429))
    assert (said.is_rejected, said.exceeded, said.retry_after_seconds) == (True, None, None)


def test_a_quota_that_is_used_up_is_no_matter_of_going_slower():
    said = failed(refused(429, "insufficient_quota", "insufficient_quota", **{"retry-after": "3"}))
    assert (said.is_admitted, said.is_rejected, said.retry_after_seconds) == (None, False, None)


@pytest.mark.parametrize(("status", "is_overloaded"), [(500, False), (503, True), (529, True)])
def test_a_server_that_has_too_much_to_do_says_so_by_its_status(status, is_overloaded):
    said = failed(refused(status))
    assert (said.is_overloaded, said.is_admitted, said.is_rejected) == (is_overloaded, None, False)


@pytest.mark.parametrize("status", [400, 401])
def test_a_refusal_for_another_reason_tells_nothing_about_limits(status):
    said = failed(refused(status))
    assert (said.is_admitted, said.is_rejected, said.is_overloaded) == (None, False, False)


@pytest.mark.parametrize(
    "error",
    [
        openai.APITimeoutError(httpx2.Request("POST", "http://server")),
        openai.APIConnectionError(request=httpx2.Request("POST", "http://server")),
        ValueError("no answer"),
    ],
)
def test_a_connection_that_broke_tells_nothing_about_limits(error):
    said = outcome(error, record(status=AttemptStatus.FAILED, certainty=Certainty.UNKNOWN))
    assert said == Outcome()


@pytest.mark.parametrize("status", [AttemptStatus.FAILED, AttemptStatus.TRUNCATED])
def test_an_answer_that_broke_off_was_let_in_all_the_same(status):
    error = openai.APIConnectionError(request=httpx2.Request("POST", "http://server"))
    said = outcome(error, record(status=status, status_code=200, certainty=Certainty.ESTIMATED))
    assert said == Outcome(is_admitted=True)


# Headers


def test_an_errors_headers_are_those_of_its_response():
    headers = response_headers(refused(429, **{"x-ratelimit-limit-requests": "60"}))
    assert headers is not None
    assert headers["X-RateLimit-Limit-Requests"] == "60"


@pytest.mark.parametrize("error", [None, ValueError("no"), KeyboardInterrupt()])
def test_what_has_no_response_has_no_headers(error):
    assert response_headers(error) is None
