"""The requests of reliable embeddings: the retry inside, and no download.

Mixed into OpenAIEmbeddings and AzureOpenAIEmbeddings. A failed chunk is retried alone, every vector belongs
to its text, and usage reaches the callbacks. Does not need a tokenizer: texts are sent as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import openai
from langchain_openai.embeddings.base import MAX_TOKENS_PER_REQUEST
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, field_validator, model_validator

from lc_service.limits.circuit import CircuitBreaker
from lc_service.limits.limiter import RateLimiter
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
from lc_service.models.request import (
    BudgetField,
    LedgerField,
    RateLimitsField,
    Request,
    TelemetryField,
    accounts,
)
from lc_service.retry.policy import RetryWithExponentialBackoff

_CLIENT_FIELDS = ("client", "async_client")

if TYPE_CHECKING:
    from langchain_openai import OpenAIEmbeddings as MixedInto
else:
    MixedInto = BaseModel  # as in `configured_chat`


class ReliableEmbeddings(MixedInto):
    """Retries each request by itself and counts it; see `ReliableOpenAIEmbeddings`."""

    retry: InstanceOf[RetryWithExponentialBackoff] = Field(
        default_factory=RetryWithExponentialBackoff, exclude=True
    )
    callbacks: Any = Field(default=None, exclude=True)
    max_concurrent_chunks: int = Field(default=8, ge=1, exclude=True)
    budget: BudgetField = Field(default=None, exclude=True)
    ledger: LedgerField = Field(default=None, exclude=True)
    telemetry: TelemetryField = Field(default=None, exclude=True)
    rate_limits: RateLimitsField = Field(default=LEARNED, exclude=True)
    circuit_breaker: InstanceOf[CircuitBreaker] | None = Field(default_factory=CircuitBreaker, exclude=True)

    if TYPE_CHECKING:
        # LangChain's types know no plain text here, which it takes, as in all of its examples.
        openai_api_key: Any = Field(default=None, alias="api_key")

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
            limiter=self._limiter,
            circuit_breaker=self.circuit_breaker,
            asked_model=self._asked_model(),
        )

    def _asked_model(self) -> str | None:
        return None  # what is sent

    def _limiter(self, request: Request) -> RateLimiter | None:
        return limiter_of(self, request)

    def with_retry(self, retry: RetryWithExponentialBackoff) -> Self:
        """Return embeddings of the same class with another policy.

        Args:
            retry: The new policy.
        """
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


def _validators(embeddings: ReliableEmbeddings) -> Any:
    """Return `embeddings` as pydantic leaves it: its validators stay callable, its types do not say so."""
    return embeddings
