"""What both models do to the SDK's clients: no retries of its own, a timeout, connections bound to a loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import openai
from langchain_openai import OpenAIEmbeddings
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import SecretStr

from lc_service.models import http
from lc_service.retry.policy import RetryOn, RetryWithExponentialBackoff


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


def require_sendable_key(model: BaseChatOpenAI | OpenAIEmbeddings) -> None:
    """Refuse a key that cannot be a header: the HTTP client would refuse it too, and quote it.

    Raises:
        ValueError: The key has a space, a line break, or a character that is not printable ASCII.
    """
    for secret in (model.openai_api_key, getattr(model, "azure_ad_token", None)):
        if not isinstance(secret, SecretStr):
            continue  # none, or a function that fetches it
        word = secret.get_secret_value()
        if not (word.isascii() and word.isprintable()) or " " in word:
            raise ValueError(
                "The API key has a space, a line break or a character that is not printable ASCII. "
                "A key that was read from a file usually needs strip()."
            )


def client_options(model: BaseChatOpenAI | OpenAIEmbeddings) -> dict[str, Any]:
    """Return what to set on a model's synchronous SDK client; an HTTP client the caller brought stays."""
    base_url = model.openai_api_base or getattr(model, "azure_endpoint", None)
    endpoint = f"{base_url} {model.request_timeout!r}"  # by what LangChain shares them, too
    makers = (http.proxied_client, http.socket_options_client, partial(http.default_client, endpoint))
    return _options(model, model.http_client, *makers)


def async_client_options(model: BaseChatOpenAI | OpenAIEmbeddings) -> dict[str, Any]:
    """Return what to set on a model's asynchronous SDK client; as `client_options`."""
    makers = (http.proxied_async_client, http.socket_options_async_client, http.default_async_client)
    return _options(model, model.http_async_client, *makers)


def _options(
    model: BaseChatOpenAI | OpenAIEmbeddings,
    brought: object,
    proxied: Callable[[str], object],
    with_socket_options: Callable[[list[tuple[int, int, int]]], object],
    default: Callable[[], object],
) -> dict[str, Any]:
    options: dict[str, Any] = {"max_retries": 0}
    if "request_timeout" not in model.model_fields_set:
        options["timeout"] = openai.DEFAULT_TIMEOUT
    socket_options = getattr(model, "http_socket_options", None)
    if model.openai_proxy:
        options["http_client"] = proxied(model.openai_proxy)
    elif brought is None:
        given = with_socket_options(list(socket_options)) if socket_options else default()
        options["http_client"] = given
    return options


# LangChain's names for the policy's numbers; its `jitter` is an extra wait, for which ours has no use
_POLICY_NAMES = {"initial": "initial_delay", "max": "max_delay", "exp_base": "multiplier"}


def langchain_policy_changes(
    policy: RetryWithExponentialBackoff,
    *,
    retry_if_exception_type: RetryOn | None,
    wait_exponential_jitter: bool | None,
    exponential_jitter_params: Mapping[str, float] | None,
    stop_after_attempt: int | None,
) -> dict[str, Any]:
    """Return the policy's fields that the arguments of LangChain's `with_retry` change.

    Raises:
        ValueError: `exponential_jitter_params` has a name that LangChain does not know.
    """
    changes: dict[str, Any] = {}
    if retry_if_exception_type is not None:
        changes["retry_on"] = retry_if_exception_type
    if wait_exponential_jitter is False:
        changes["jitter"] = "none"
    elif wait_exponential_jitter and policy.jitter == "none":
        changes["jitter"] = "full"
    for name, value in (exponential_jitter_params or {}).items():
        if name not in (*_POLICY_NAMES, "jitter"):
            raise ValueError(f"exponential_jitter_params takes initial, max and exp_base, not {name!r}.")
        if name in _POLICY_NAMES:
            changes[_POLICY_NAMES[name]] = value
    if stop_after_attempt is not None:
        changes["max_retries"] = stop_after_attempt - 1
    return changes
