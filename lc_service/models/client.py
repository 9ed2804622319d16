"""What both models do to the SDK's clients: no retries of its own, a timeout, connections bound to a loop."""

from __future__ import annotations

from typing import Any

import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

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
    if "retry" in values and not (is_copy and values["retry"].max_retries == values["max_retries"]):
        raise ValueError("Give either max_retries or retry, not both: retry has a max_retries of its own.")
    return {"retry": RetryWithExponentialBackoff(max_retries=values["max_retries"])} | values


def client_options(model: ChatOpenAI | OpenAIEmbeddings) -> dict[str, Any]:
    """Return what to set on both of a model's SDK clients, with `with_options`."""
    if "request_timeout" in model.model_fields_set:
        return {"max_retries": 0}
    return {"max_retries": 0, "timeout": openai.DEFAULT_TIMEOUT}


def async_client_options(model: ChatOpenAI | OpenAIEmbeddings) -> dict[str, Any]:
    """Return what to set on a model's asynchronous SDK client; an HTTP client the caller brought stays."""
    options = client_options(model)
    socket_options = getattr(model, "http_socket_options", None)
    if model.openai_proxy:
        options["http_client"] = http.proxied_async_client(model.openai_proxy)
    elif model.http_async_client is None and socket_options:
        options["http_client"] = http.socket_options_async_client(list(socket_options))
    elif model.http_async_client is None:
        options["http_client"] = http.default_async_client()
    return options
