"""How the OpenAI SDK makes a request, as far as plain completions copy it (ADR 0014)."""

from __future__ import annotations

import inspect
import logging
import re
from typing import Any

import httpx2
import openai
import pytest
from langchain_openai.chat_models.base import BaseChatOpenAI
from openai import _base_client
from openai._models import FinalRequestOptions
from openai.resources.chat.completions import AsyncCompletions, Completions

from lc_service.models.plain_request import _SIGNING, is_the_sdks

CLIENTS = [openai.OpenAI(api_key="sk-test"), openai.AsyncOpenAI(api_key="sk-test")]


@pytest.fixture(params=CLIENTS, ids=lambda client: type(client).__name__)
def client(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_the_private_names_that_plain_completions_take_from_the_sdk_exist(client):
    """A client builds a request of options, has one HTTP client, and makes errors of responses.

    Ours: `models/completions.py` and `models/plain_request.py`. Where one of the names that stand for signing
    is gone, the SDK builds every request: nothing breaks, but calls cost more.
    """
    for name in ("_build_request", "_make_status_error_from_response"):
        assert callable(getattr(client, name))
    for name in (*_SIGNING, "_platform"):
        assert vars(client).get(name, "missing") is None
    assert isinstance(client._client, (httpx2.Client, httpx2.AsyncClient))
    assert client.chat.completions._client is client
    assert callable(client.chat.completions._post)
    assert logging.getLogger("openai._base_client") is _base_client.log


@pytest.mark.parametrize("cls", [_base_client.SyncAPIClient, _base_client.AsyncAPIClient])
def test_a_request_takes_no_step_that_a_copy_would_miss(cls):
    """The SDK's `request` uses these of its own names and no others.

    Ours: `Template` builds with `_build_request` once, and sends with `_client.send`. A name that is new here
    may be a step that copied requests miss: read it, do as it does or have no template for it, then list it.
    """
    asked = set(re.findall(r"self\.(\w+)", inspect.getsource(cls.request)))
    assert asked - {"_platform", "_custom_auth", "custom_auth"} == {
        "_build_request", "_client", "_idempotency_key", "_make_status_error_from_response",
        "_maybe_override_cast_to", "_prepare_options", "_prepare_request", "_process_response",
        "_send_request", "_should_retry", "_should_stream_response_body", "_sleep_for_retry",
        "_validate_max_retries", "max_retries",
    }  # fmt: skip


async def test_with_just_a_key_the_sdks_hooks_change_nothing(client):
    """`_prepare_options`, `_prepare_request` and the custom auth of such a client do nothing.

    Ours: `Template` leaves them out.
    """
    options = FinalRequestOptions.construct(method="post", url="/chat/completions", content=b"{}")
    request = client._build_request(options)
    before = list(request.headers.raw)
    prepared, done = client._prepare_options(options), client._prepare_request(request)
    if isinstance(client, openai.AsyncOpenAI):
        prepared, done = await prepared, await done
    auth = (
        client.custom_auth
        if isinstance(client, openai.AsyncOpenAI)
        else client._custom_auth(options.security)
    )
    assert prepared is options
    assert (done, auth) == (None, None)
    assert (request.headers.raw, request.content) == (before, b"{}")


async def test_with_just_a_key_the_sdk_sends_with_its_http_client(monkeypatch, client):
    """`_send_request` returns what `_client.send` does.

    Ours: `Template.send` calls that at once.
    """
    answer = httpx2.Response(401)
    is_async = isinstance(client, openai.AsyncOpenAI)

    async def asend(request: httpx2.Request, **_: Any) -> httpx2.Response:
        return answer

    monkeypatch.setattr(client._client, "send", asend if is_async else lambda request, **_: answer)
    sent = client._send_request(httpx2.Request("POST", "https://test.invalid"), stream=False)
    assert (await sent if is_async else sent) is answer


def test_the_sdks_create_is_a_function_of_its_own():
    """Tracers replace `Completions.create`, and then it is no plain function in the SDK's folder.

    Ours: `is_the_sdks`; what was replaced is asked.
    """
    assert is_the_sdks(Completions.create)
    assert is_the_sdks(AsyncCompletions.create)


def test_langchain_asks_the_raw_response_and_takes_a_dictionary():
    """langchain-openai calls `client.with_raw_response.create`, then `parse`, and reads a dictionary.

    Ours: `PlainCompletions` and `PlainResponse` in `models/completions.py`.
    """
    for generate, asked in (
        (BaseChatOpenAI._generate, "self.client.with_raw_response.create(**payload)"),
        (BaseChatOpenAI._agenerate, "self.async_client.with_raw_response.create("),
    ):
        source = inspect.getsource(generate)
        assert asked in source
        assert "raw_response.parse()" in source
    assert "isinstance(response, dict)" in inspect.getsource(BaseChatOpenAI._create_chat_result)
