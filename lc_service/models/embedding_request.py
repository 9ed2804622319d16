"""One embedding request: retried by itself, checked against its input, told to LangChain's callbacks.

Stands where OpenAIEmbeddings keeps the SDK's `embeddings` resource, so that each chunk of a long list is
retried alone. Does not split texts into chunks.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
from langchain_core.callbacks import AsyncCallbackManager, AsyncCallbackManagerForLLMRun, CallbackManager
from langchain_core.outputs import LLMResult
from langchain_core.runnables.config import RunnableConfig, ensure_config
from langchain_core.utils.uuid import uuid7
from openai.types import CreateEmbeddingResponse

from lc_service.accounting.prompt import estimate_texts, max_text_tokens
from lc_service.accounting.reported import Reported, read_usage
from lc_service.accounting.tokenizer import estimator_for
from lc_service.limits.circuit import CircuitBreaker
from lc_service.limits.limiter import RateLimiter
from lc_service.models.answer import mark_malformed
from lc_service.models.circuit import abehind, behind, gate_of
from lc_service.models.pipeline import Call
from lc_service.models.request import NO_ACCOUNTS, Accounts, Request
from lc_service.models.run import aon_wait, on_wait
from lc_service.retry.errors import MalformedResponseError
from lc_service.retry.policy import RetryWithExponentialBackoff, aretry_call, retry_call

_SERIALIZED = {"lc": 1, "type": "not_implemented", "id": ["lc_service", "ReliableOpenAIEmbeddings"]}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a model's requests are made and accounted for.

    Attributes:
        retry: When to try again.
        callbacks: LangChain's, for every request.
        accounts: Budgets and ledgers.
        limiter: Tells which rate limiter a request goes through.
        circuit_breaker: When to leave a dead endpoint alone.
        asked_model: What the model is called by those who count and price; None for what is sent.
    """

    retry: RetryWithExponentialBackoff
    callbacks: Any = None
    accounts: Accounts = NO_ACCOUNTS
    limiter: Callable[[Request], RateLimiter | None] = lambda _: None
    circuit_breaker: CircuitBreaker | None = None
    asked_model: str | None = None


class RetriedEmbeddings:
    """The SDK's synchronous `embeddings` resource with the retry inside; thread-safe."""

    def __init__(self, resource: openai.resources.Embeddings, terms: Callable[[], Terms]) -> None:
        self.resource = resource
        self._terms = terms

    def create(self, *, input: Any, model: str, **kwargs: Any) -> CreateEmbeddingResponse:  # noqa: A002
        """Request embeddings; arguments as the SDK's `create`.

        Raises:
            BudgetExceeded: The request does not fit into a budget. Nothing has been sent.
            MalformedResponseError: The answer has not one vector for each input.
            openai.OpenAIError: As the SDK raises it.
        """
        terms = self._terms()  # now: a model's fields may be set at any time
        manager = CallbackManager.configure(local_callbacks=terms.callbacks, **_inherited(ensure_config()))
        (run,) = manager.on_llm_start(_SERIALIZED, [_describe(input)], invocation_params={"model": model})
        request = _request(self.resource, input, terms.asked_model or model)
        call = Call(request, terms.accounts, run, terms.limiter(request))

        def attempt() -> CreateEmbeddingResponse:
            with call.attempt() as attempt, attempt.sending(), _marked():
                response = self.resource.create(input=input, model=model, **kwargs)
                attempt.reported = _reported(response)
                return _checked(response, input)

        try:
            with call:
                guarded = behind(gate_of(terms.circuit_breaker, call), attempt)
                response = retry_call(terms.retry, guarded, on_wait(call))
        except BaseException as error:
            run.on_llm_error(error)
            raise
        run.on_llm_end(_llm_result(response, model))
        return response


class AsyncRetriedEmbeddings:
    """The SDK's asynchronous `embeddings` resource with the retry inside; loop-safe."""

    def __init__(self, resource: openai.resources.AsyncEmbeddings, terms: Callable[[], Terms]) -> None:
        self.resource = resource
        self._terms = terms

    async def create(self, *, input: Any, model: str, **kwargs: Any) -> CreateEmbeddingResponse:  # noqa: A002
        """Request embeddings; as `RetriedEmbeddings.create`."""
        terms = self._terms()  # now: a model's fields may be set at any time
        manager = AsyncCallbackManager.configure(
            local_callbacks=terms.callbacks, **_inherited(ensure_config())
        )
        run = await _astart(manager, _describe(input), model)
        request = _request(self.resource, input, terms.asked_model or model)
        call = Call(request, terms.accounts, run, terms.limiter(request))

        async def attempt() -> CreateEmbeddingResponse:
            async with call.attempt() as attempt:
                with attempt.sending(), _marked():
                    response = await self.resource.create(input=input, model=model, **kwargs)
                    attempt.reported = _reported(response)
                    return _checked(response, input)

        try:
            with call:
                guarded = abehind(gate_of(terms.circuit_breaker, call), attempt)
                response = await aretry_call(terms.retry, guarded, aon_wait(call))
        except BaseException as error:
            await run.on_llm_error(error)
            raise
        await run.on_llm_end(_llm_result(response, model))
        return response


def _request(resource: Any, texts: Any, model: str) -> Request:
    estimator = estimator_for(model)
    listed = texts if _is_list(texts) else [texts]
    return Request(
        operation="embeddings",
        model=model,
        estimator=estimator,
        measure=lambda: estimate_texts(estimator, listed),
        bound=lambda: max_text_tokens(listed),
        max_output_tokens=0,
        server=resource._client.base_url,  # noqa: SLF001  contract-tested
    )


def _reported(response: CreateEmbeddingResponse) -> Reported:
    return Reported(usage=read_usage(getattr(response, "usage", None)), model=response.model or None)


# What the SDK, numpy and array say of vectors that are none, in a bare ValueError.
_UNREADABLE = (
    "No embedding data received",
    "buffer size must be a multiple of element size",
    "bytes length not a multiple of item size",
)


@contextmanager
def _marked() -> Iterator[None]:
    """Mark what the SDK says where the body is a page or has no data; a wrong argument is a TypeError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (AttributeError, binascii.Error)) or str(error) in _UNREADABLE:
            mark_malformed(error)
        raise


def _inherited(config: RunnableConfig) -> dict[str, Any]:
    """Take the callbacks of the chain step that embeds: Embeddings get no config of their own."""
    return {
        "inheritable_callbacks": config.get("callbacks"),
        "inheritable_tags": config.get("tags"),
        "inheritable_metadata": config.get("metadata"),
    }


async def _astart(
    manager: AsyncCallbackManager, description: str, model: str
) -> AsyncCallbackManagerForLLMRun:
    """Tell all handlers: where one of them runs inline, `on_llm_start` forgets those that do not."""
    handlers, run_id = manager.handlers, uuid7()
    for is_inline in (True, False):
        manager.handlers = [handler for handler in handlers if handler.run_inline == is_inline]
        (run,) = await manager.on_llm_start(
            _SERIALIZED, [description], run_id=run_id, invocation_params={"model": model}
        )
    run.handlers = handlers
    return run


def _describe(texts: Any) -> str:
    """Say what is embedded without quoting it: a chunk can be a thousand documents."""
    return f"{_input_count(texts)} texts to embed"


def _input_count(texts: Any) -> int:
    return len(texts) if _is_list(texts) else 1


def _is_list(texts: Any) -> bool:
    """Whether there are several texts; a list of integers is one text in tokens."""
    is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
    return is_list and bool(texts) and not isinstance(texts[0], int)


def _checked(response: CreateEmbeddingResponse, texts: Any) -> CreateEmbeddingResponse:
    """Return `response` in the order of its inputs, which is what its `index` means."""
    data: Any = response.data
    if not isinstance(data, list) or not all(_has_vector(item) for item in data):
        raise MalformedResponseError("The server sent an answer without vectors.")
    count = _input_count(texts)
    if len(data) != count:
        raise MalformedResponseError(f"The server sent {len(data)} embeddings for {count} texts.")
    indexes = {getattr(item, "index", None) for item in data}
    if indexes == set(range(count)):
        data.sort(key=lambda item: item.index)
    elif not indexes <= {None} and indexes != {0}:  # some servers do not number them: then as sent
        raise MalformedResponseError(f"The server sent {count} embeddings with other indexes.")
    return response


def _has_vector(item: Any) -> bool:
    vector = getattr(item, "embedding", None)
    return isinstance(vector, list) and bool(vector)


def _llm_result(response: CreateEmbeddingResponse, model: str) -> LLMResult:
    usage = getattr(response, "usage", None)
    return LLMResult(
        generations=[],
        llm_output={
            "token_usage": usage.model_dump() if usage is not None else None,
            "model_name": response.model or model,
            "operation": "embeddings",
        },
    )
