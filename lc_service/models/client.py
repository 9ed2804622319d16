"""What both models do to the SDK's clients: no retries of its own, a timeout, connections bound to a loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from lc_service.models import http
from lc_service.retry.policy import RetryWithExponentialBackoff


def read_max_retries(values: Any, *, is_copy: bool) -> Any:
    """Read LangChain's `max_retries` among a model's constructor arguments as the policy's.

    Args:
        values: The arguments.
        is_copy: Whether LangChain's `configurable_fields` made them of all of a model's fields.

    Raises:
        ValueError: Both were given.
    """
    if not isinstance(values, dict) or values.get("max_retries") is None:
        return values
    policy = values.get("retry")
    if policy is not None and not is_copy:
        raise ValueError("Give either max_retries or retry, not both: retry has a max_retries of its own.")
    policy = replace(policy or RetryWithExponentialBackoff(), max_retries=values["max_retries"])
    return {**values, "retry": policy}


def require_sendable_key(model: ChatOpenAI | OpenAIEmbeddings) -> None:
    """Refuse a key that cannot be a header: the HTTP client would refuse it too, and quote it.

    Raises:
        ValueError: The key has a space, a line break, or a character that is not printable ASCII.
    """
    if not isinstance(model.openai_api_key, SecretStr):
        return  # a function that fetches it
    word = model.openai_api_key.get_secret_value()
    if not (word.isascii() and word.isprintable()) or " " in word:
        raise ValueError(
            "The API key has a space, a line break or a character that is not printable ASCII. "
            "A key that was read from a file usually needs strip()."
        )


def client_options(model: ChatOpenAI | OpenAIEmbeddings) -> dict[str, Any]:
    """Return what to set on a model's synchronous SDK client; an HTTP client the caller brought stays."""
    options = _common_options(model)
    socket_options = getattr(model, "http_socket_options", None)
    if model.openai_proxy:
        options["http_client"] = http.proxied_client(model.openai_proxy)
    elif model.http_client is None and socket_options:
        options["http_client"] = http.socket_options_client(list(socket_options))
    elif model.http_client is None:
        options["http_client"] = http.default_client()
    return options


def async_client_options(model: ChatOpenAI | OpenAIEmbeddings) -> dict[str, Any]:
    """Return what to set on a model's asynchronous SDK client; as `client_options`."""
    options = _common_options(model)
    socket_options = getattr(model, "http_socket_options", None)
    if model.openai_proxy:
        options["http_client"] = http.proxied_async_client(model.openai_proxy)
    elif model.http_async_client is None and socket_options:
        options["http_client"] = http.socket_options_async_client(list(socket_options))
    elif model.http_async_client is None:
        options["http_client"] = http.default_async_client()
    return options


def _common_options(model: ChatOpenAI | OpenAIEmbeddings) -> dict[str, Any]:
    if "request_timeout" in model.model_fields_set:
        return {"max_retries": 0}
    return {"max_retries": 0, "timeout": openai.DEFAULT_TIMEOUT}
