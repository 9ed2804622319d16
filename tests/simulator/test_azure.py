"""Azure's paths: the deployment in the path, the key's header, the gateway's words and headers."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from lc_service.simulator import Fault, ServerLimits

QUERY = {"api-version": "2024-10-21"}
CHAT = "/openai/deployments/house/chat/completions"
KEY = {"api-key": "azure-key-0123456789"}


@pytest.fixture
def azure(wire_to: Any) -> Any:
    """Start a simulator, and return a function that posts to it as an Azure client does."""

    def start(**options: Any) -> Any:
        wire = wire_to(deployments={"house": "gpt-4.1-mini", "vectors": "text-embedding-3-small"}, **options)
        del wire.client.headers["authorization"]
        wire.client.base_url = httpx2.URL(wire.sim.azure_endpoint)

        def post(path: str = CHAT, **changes: Any) -> httpx2.Response:
            body = {"messages": [{"role": "user", "content": "Hello"}], **changes.pop("body", {})}
            return wire.client.post(path, json=body, **{"params": QUERY, "headers": KEY, **changes})

        post.sim = wire.sim  # type: ignore[attr-defined]
        return post

    return start


def test_a_deployment_answers_as_the_model_behind_it_which_is_billed(azure: Any) -> None:
    post = azure()
    answer = post().json()
    assert answer["model"] == "gpt-4.1-mini"
    assert post.sim.bill.by("gpt-4.1-mini").requests == 1
    assert answer["usage"]["total_tokens"] == post.sim.bill.total.total_tokens
    assert post.sim.requests[0].path == CHAT


def test_answers_have_the_content_filters_verdicts(azure: Any) -> None:
    answer = azure()().json()
    assert answer["prompt_filter_results"][0]["prompt_index"] == 0
    assert answer["choices"][0]["content_filter_results"]["hate"] == {"filtered": False, "severity": "safe"}


def test_a_stream_opens_with_the_prompts_verdict_and_is_billed_alike(azure: Any) -> None:
    post = azure()
    whole = post(body={"seed": 1}).json()
    text = post(body={"seed": 1, "stream": True, "stream_options": {"include_usage": True}}).text
    blocks = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert blocks.pop() == "[DONE]"
    opening, *chunks = [json.loads(block) for block in blocks]
    assert (opening["choices"], opening["model"]) == ([], "")
    assert opening["prompt_filter_results"]
    joined = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert joined == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == whole["usage"]


def test_embeddings_and_responses_have_paths_of_their_own(azure: Any) -> None:
    post = azure()
    vectors = post("/openai/deployments/vectors/embeddings", body={"input": ["one", "two"]}).json()
    assert [item["index"] for item in vectors["data"]] == [0, 1]
    answer = post("/openai/responses", body={"model": "house", "input": "Hello"}).json()
    assert (answer["model"], answer["status"]) == ("gpt-4.1-mini", "completed")


@pytest.mark.parametrize("headers", [KEY, {"authorization": "Bearer a-token"}], ids=["key", "token"])
def test_the_v1_path_takes_the_deployment_from_the_body_and_needs_no_version(
    headers: Any, azure: Any
) -> None:
    post = azure()
    answer = post("/openai/v1/chat/completions", body={"model": "house"}, params={}, headers=headers)
    assert answer.json()["model"] == "gpt-4.1-mini"


def test_a_key_is_needed_and_must_be_right(azure: Any) -> None:
    post = azure(api_key=KEY["api-key"])
    assert post().status_code == 200
    for headers in ({}, {"api-key": "another"}):
        refused = post(headers=headers)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "401"
        assert "another" not in refused.text
    assert post.sim.requests[0].authorization_masked.startswith("azure-")


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        (CHAT, {}, "404"),
        (CHAT, {"api-version": ""}, "404"),
        ("/openai/deployments/nobody/chat/completions", QUERY, "DeploymentNotFound"),
        ("/openai/deployments/house/pictures", QUERY, "404"),
    ],
)
def test_what_is_not_there_is_told_in_azures_words(path: str, params: Any, code: str, azure: Any) -> None:
    answer = azure()(path, params=params)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"code", "message"}
    assert answer.json()["error"]["code"] == code


def test_every_answer_has_the_gateways_headers_and_its_errors_no_request_id(azure: Any) -> None:
    post = azure(faults=[None, Fault("rate_limit", retry_after_seconds=0.3)])
    served, refused = post(), post()
    for answer in (served, refused):
        assert answer.headers["apim-request-id"]
        assert answer.headers["x-ms-region"]
    assert served.headers["x-request-id"] == served.headers["apim-request-id"]
    assert "x-request-id" not in refused.headers
    assert refused.headers["retry-after-ms"] == "300"
    assert refused.json()["error"]["code"] == "429"


def test_each_deployment_has_its_limits_and_resets_are_whole_seconds(azure: Any) -> None:
    post = azure(limits=ServerLimits(requests_per_minute=60, burst_seconds=1), clock=lambda: 100.0)
    served = post()
    assert served.headers["x-ratelimit-remaining-requests"] == "0"
    assert served.headers["x-ratelimit-reset-requests"] == "1"
    refused = post()
    assert refused.status_code == 429
    assert "call rate limit" in refused.json()["error"]["message"]
    assert post("/openai/deployments/vectors/embeddings", body={"input": "one"}).status_code == 200


def test_what_never_fits_is_told_to_come_back_in_a_day(azure: Any) -> None:
    post = azure(limits=ServerLimits(tokens_per_minute=10))
    refused = post(body={"max_tokens": 1_000})
    assert refused.headers["retry-after"] == "86400"
    assert "token rate limit" in refused.json()["error"]["message"]


def test_the_content_filter_refuses_a_prompt_with_an_inner_error(azure: Any) -> None:
    refused = azure(faults=["bad_request"])()
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("content_filter", "prompt")
    assert error["innererror"]["code"] == "ResponsibleAIPolicyViolation"


def test_what_the_server_behind_the_gateway_says_stays(azure: Any) -> None:
    error = azure(faults=["context_length"])().json()["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
