"""`ReliableOpenAIEmbeddings`: LangChain's OpenAIEmbeddings with the retry inside, and without a download.

A failed chunk is retried alone, every vector belongs to its text, and usage reaches the callbacks.
Does not need a tokenizer: texts are sent as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import openai
from langchain_openai import OpenAIEmbeddings
from langchain_openai.embeddings.base import MAX_TOKENS_PER_REQUEST
from pydantic import ConfigDict, Field, InstanceOf, field_validator, model_validator

from lc_service.limits.circuit import CircuitBreaker
from lc_service.limits.rate_limits import LEARNED, read_rate_limits
from lc_service.models.client import (
    async_client_options,
    client_options,
    read_max_retries,
    require_sendable_key,
)
from lc_service.models.concurrency import work_in_order
from lc_service.models.embedding_request import AsyncRetriedEmbeddings, RetriedEmbeddings, Terms
from lc_service.models.flow import limiter_of
from lc_service.models.request import accounts
from lc_service.retry.policy import RetryWithExponentialBackoff

_CLIENT_FIELDS = ("client", "async_client")


class ReliableOpenAIEmbeddings(OpenAIEmbeddings):
    """OpenAIEmbeddings that retries each request by itself and counts it.

    Takes all of OpenAIEmbeddings' arguments. What differs:

    - `retry` decides about retries; the SDK's own are off. `max_retries=N` is short for a default policy with
      N retries, `retry_min_seconds` and `retry_max_seconds` are not used.
    - A vector goes to the text that its `index` names; an answer with too few or too many is retried.
    - Each request is a run for LangChain's callbacks: those of the chain step it happens in, `callbacks`, and
      trackers. Its texts are not shown to them.
    - Texts are sent as text, so no tokenizer file is downloaded. A text above twice `embedding_ctx_length`
      bytes is split there, and the vectors of its parts are averaged by their length.
    - `aembed_documents` has up to `max_concurrent_chunks` requests under way. When one fails for good, no
      more are begun, those under way are finished (they may be paid for, and are counted), and the first
      error is raised. Cancelling it cancels them all.
    - Without a `timeout`, the SDK's default holds (600 s for an answer, 5 s to connect).

    Safe to share between threads, tasks and event loops; can be pickled.

    Args:
        retry: When and how often to try again.
        callbacks: LangChain callback handlers, or a manager, for every request of this object.
        max_concurrent_chunks: How many requests of one `aembed_documents` may be under way.
        budget: A `Budget`, or several, that every attempt must fit into before it is sent.
        ledger: A `UsageLedger` that keeps a row for every attempt.
        telemetry: A `Telemetry` that tells OpenTelemetry of every request.
        rate_limits: `"auto"` learns the server's limits and keeps to them; `RateLimits` caps what is learned,
            or shares it between processes; None sends at once.
        circuit_breaker: When to leave a dead endpoint alone; None never does.

    Raises:
        CircuitOpenError: The endpoint is taken for dead. Nothing has been sent.
        RequestExceedsLimitError: A request can never fit the limit of tokens a minute. It has not been sent.
        BudgetExceeded: A request does not fit into `budget`. It has not been sent.
        MalformedResponseError: A 200 that is no API answer, or has not one vector for each text.
        openai.OpenAIError: Everything else, as the SDK raises it.
    """

    retry: InstanceOf[RetryWithExponentialBackoff] = Field(
        default_factory=RetryWithExponentialBackoff, exclude=True
    )
    callbacks: Any = Field(default=None, exclude=True)
    max_concurrent_chunks: int = Field(default=8, ge=1, exclude=True)
    budget: Any = Field(default=None, exclude=True)
    ledger: Any = Field(default=None, exclude=True)
    telemetry: Any = Field(default=None, exclude=True)
    rate_limits: Any = Field(default=LEARNED, exclude=True)
    circuit_breaker: InstanceOf[CircuitBreaker] | None = Field(default_factory=CircuitBreaker, exclude=True)

    # What pydantic would show of a refused input may be the key.
    model_config = ConfigDict(hide_input_in_errors=True)

    @field_validator("rate_limits")
    @classmethod
    def _read_rate_limits(cls, value: Any) -> Any:
        return read_rate_limits(value)

    @model_validator(mode="before")
    @classmethod
    def _read_max_retries(cls, values: Any) -> Any:
        """Read OpenAIEmbeddings' `max_retries` as the policy's."""
        is_copy = isinstance(values, dict) and values.get("async_client") is not None
        return read_max_retries(values, is_copy=is_copy)

    @model_validator(mode="after")
    def _own_clients(self) -> Self:
        """Put the retry where the SDK's resources were; done again for a copy with another policy."""
        require_sendable_key(self)
        resource = getattr(self.client, "resource", self.client)
        if isinstance(resource, openai.resources.Embeddings):
            sdk = resource._client.with_options(**client_options(self))  # noqa: SLF001  contract-tested
            self.client = RetriedEmbeddings(sdk.embeddings, self._terms)
        aresource = getattr(self.async_client, "resource", self.async_client)
        if isinstance(aresource, openai.resources.AsyncEmbeddings):
            asdk = aresource._client.with_options(**async_client_options(self))  # noqa: SLF001
            self.async_client = AsyncRetriedEmbeddings(asdk.embeddings, self._terms)
        return self

    def _terms(self) -> Terms:
        return Terms(
            retry=self.retry,
            callbacks=self.callbacks,
            accounts=accounts(self.budget, self.ledger, self.telemetry),
            limiter=lambda request: limiter_of(self, request),
            circuit_breaker=self.circuit_breaker,
        )

    def with_retry(self, retry: RetryWithExponentialBackoff) -> Self:
        """Return embeddings of the same class with another policy."""
        return self.model_copy(update={"retry": retry})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy; the copy's requests follow the copy's policy, callbacks, budget and ledger."""
        copy = super().model_copy(update=update, deep=deep)
        _validators(copy)._own_clients()  # noqa: SLF001
        return copy

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out the clients: sockets and locks cannot travel."""
        state = super().__getstate__()
        fields = state["__dict__"] | dict.fromkeys(_CLIENT_FIELDS)
        if self.openai_proxy:  # made from it, not the caller's
            fields |= {"http_client": None, "http_async_client": None}
        return {**state, "__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        _validators(self).validate_environment()
        _validators(self)._own_clients()  # noqa: SLF001

    async def aembed_documents(
        self, texts: list[str], chunk_size: int | None = None, **kwargs: Any
    ) -> list[list[float]]:
        """Embed texts, several chunks at once; vectors in the order of the texts.

        A text's parts stay in one chunk.

        Args:
            texts: What to embed.
            chunk_size: Texts a request, at most; None takes the field of that name.
            **kwargs: Further parameters of the request.

        Raises:
            BudgetExceeded, MalformedResponseError, openai.OpenAIError: As the class says.
        """
        embed = super().aembed_documents
        chunks = list(self._chunks(texts, chunk_size or self.chunk_size))
        if len(chunks) <= 1:
            return await embed(texts, chunk_size, **kwargs)
        vectors = await work_in_order(
            lambda chunk: embed(chunk, chunk_size, **kwargs),
            chunks,
            max_concurrency=self.max_concurrent_chunks,
        )
        return [vector for chunk in vectors for vector in chunk]

    def _chunks(self, texts: list[str], chunk_size: int) -> Iterator[list[str]]:
        """Split texts as OpenAIEmbeddings will, so that each chunk becomes one request there."""
        chunk: list[str] = []
        parts = tokens = 0
        for text in texts:
            more_parts, more_tokens = self._size(text)
            if chunk and (parts + more_parts > chunk_size or tokens + more_tokens > MAX_TOKENS_PER_REQUEST):
                yield chunk
                chunk, parts, tokens = [], 0, 0
            chunk.append(text)
            parts += more_parts
            tokens += more_tokens
        if chunk:
            yield chunk

    def _size(self, text: str) -> tuple[int, int]:
        """Return how many parts `_tokenize` makes of a text, and the tokens it says they have."""
        if not (self.check_embedding_ctx_length and self.tiktoken_enabled):  # sent whole, or who knows
            return 1, 0
        size_bytes = len(text) if text.isascii() else len(text.encode())
        parts = -(-size_bytes // (self.embedding_ctx_length * _BYTES_A_TOKEN))
        return parts, size_bytes // _BYTES_A_TOKEN + parts

    def _tokenize(
        self, texts: list[str], chunk_size: int
    ) -> tuple[range, list[list[int] | str], list[int], list[int]]:
        """Split texts by bytes, so that OpenAIEmbeddings needs no tokenizer file; see there for the shape."""
        if not self.tiktoken_enabled:  # the caller asked for a HuggingFace tokenizer
            return super()._tokenize(texts, chunk_size)  # type: ignore[return-value]
        parts = [(index, part) for index, text in enumerate(texts) for part in self._parts(text)]
        pieces: list[list[int] | str] = [part for _, part in parts]
        counts = [len(part.encode()) // _BYTES_A_TOKEN + 1 for _, part in parts]
        return range(0, len(parts), chunk_size), pieces, [index for index, _ in parts], counts

    def _parts(self, text: str) -> Iterator[str]:
        limit_bytes = self.embedding_ctx_length * _BYTES_A_TOKEN
        data = text.encode()
        start = 0
        while start < len(data):
            end = min(start + limit_bytes, len(data))
            while _is_inside_character(data, end):
                end -= 1
            if end == start:  # a character longer than the limit is sent whole
                end += 1
                while _is_inside_character(data, end):
                    end += 1
            yield data[start:end].decode()
            start = end


# Prose takes 3 to 5 bytes a token in any language; only encoded data comes near 2.
_BYTES_A_TOKEN = 2


def _is_inside_character(data: bytes, position: int) -> bool:
    """Whether cutting UTF-8 before `position` would cut a character: its further bytes begin with bits 10."""
    return position < len(data) and data[position] & 0xC0 == 0x80


def _validators(embeddings: ReliableOpenAIEmbeddings) -> Any:
    """Return `embeddings` as pydantic leaves it: its validators stay callable, its types do not say so."""
    return embeddings
