"""The front door: `OpenAIService` puts settings, models and counting together.

For programs that want one object; each part of it works alone as well. Holds no logic of its own about
retries, tokens or the wire.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import BaseMessage
from pydantic import SecretStr

from lc_service import clock
from lc_service.accounting.token_counter import TokenCounter
from lc_service.accounting.usage_report import UsageReport
from lc_service.completion import ChatCompletion, Messages, completion, read_messages, text_list
from lc_service.limits.circuit import CircuitBreaker
from lc_service.limits.hedge import Hedge
from lc_service.limits.rate_limits import RateLimits
from lc_service.models.chat import ReliableChatOpenAI
from lc_service.models.embeddings import ReliableOpenAIEmbeddings
from lc_service.retry.errors import classify
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.settings import ServiceSettings

if TYPE_CHECKING:
    from lc_service.accounting.budget import Budget
    from lc_service.accounting.ledger import UsageLedger
    from lc_service.accounting.telemetry import Telemetry

logger = logging.getLogger(__name__)
_BREAKER = CircuitBreaker()


class OpenAIService:
    """Chat and embeddings with retries and a count of what they used.

    Thread-safe, and safe in any number of event loops. `chat_model` and `embeddings` are ordinary LangChain
    objects: whatever chain or agent they are put into, this service counts what they use.

    Args:
        api_key: The key; `OPENAI_API_KEY` where None.
        model: The chat model; `LC_SERVICE_MODEL`, or a current small one, where None.
        base_url: URL of the API; `OPENAI_BASE_URL`, or OpenAI's own, where None.
        retry: When to try again; from the settings where None.
        timeout_seconds: The longest silence within an attempt; the SDK's 600 seconds where nothing else is
            said.
        temperature: Sampling temperature from 0 to 2 of everything this service does; the model's own where
            nothing says otherwise (`chat_completion`: 0.7).
        embedding_model: The embedding model; `LC_SERVICE_EMBEDDING_MODEL` where None.
        budget: A `Budget`, or several, that every call must fit into; `LC_SERVICE_BUDGET_USD` where None; an
            empty list for none in any case.
        ledger: A `UsageLedger`, or its file or URL, that keeps a row for every attempt; `LC_SERVICE_LEDGER`
            where None; False for none in any case.
        telemetry: A `Telemetry` that tells OpenTelemetry of every call.
        rate_limits: `"auto"` learns the server's limits and keeps to them, below the caps that the settings
            may have (`LC_SERVICE_REQUESTS_PER_MINUTE` and its kin); `RateLimits` in their place; None sends
            everything at once.
        circuit_breaker: When to leave a dead endpoint alone; None never does.
        hedge: When to send a chat request again because the first is slow; None never does.

    Raises:
        ConfigurationError: The key is missing, or a setting is wrong. Nothing has been sent.
        LedgerError: The ledger cannot be opened.

    Example:
        >>> service = OpenAIService(api_key="sk-...")  # or OPENAI_API_KEY in the environment
        >>> service.get_token_usage()
        {'total_tokens': 0, 'prompt_tokens': 0, 'completion_tokens': 0}
    """

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        model: str | None = None,
        *,
        base_url: str | None = None,
        retry: RetryWithExponentialBackoff | None = None,
        timeout_seconds: float | None = None,
        temperature: float | None = None,
        embedding_model: str | None = None,
        budget: Budget | Sequence[Budget] | None = None,
        ledger: UsageLedger | str | PathLike[str] | Literal[False] | None = None,
        telemetry: Telemetry | None = None,
        rate_limits: RateLimits | Literal["auto"] | None = "auto",
        circuit_breaker: CircuitBreaker | None = _BREAKER,
        hedge: Hedge | None = None,
    ) -> None:
        self._settings = ServiceSettings.load(
            api_key=api_key,
            model=model,
            base_url=base_url,
            timeout_seconds=timeout_seconds,
            temperature=temperature,
            embedding_model=embedding_model,
        )
        self._settings.require_key()
        self._retry = retry or self._settings.retry_policy()
        self._counter = TokenCounter()
        self.ledger = _open_ledger(self._settings.ledger if ledger is None else ledger)
        self._telemetry = telemetry
        self._rate_limits = self._settings.rate_limits() if rate_limits == "auto" else rate_limits
        self._circuit_breaker = circuit_breaker
        self.budget = _set_budget(self._settings.budget_usd) if budget is None else budget
        self.chat_model = ReliableChatOpenAI(model=self._settings.model, hedge=hedge, **self._common())
        if self._settings.temperature is not None and self._takes_temperature:
            # Not an argument: ChatOpenAI's constructor drops it for every gpt-5, also those that take it.
            self.chat_model.temperature = self._settings.temperature

    def _common(self) -> dict[str, Any]:
        settings = self._settings
        common: dict[str, Any] = {
            "api_key": settings.api_key,
            "base_url": settings.sdk_base_url,
            "retry": self._retry,
            "callbacks": [self._counter],
            "budget": self.budget,
            "ledger": self.ledger,
            "telemetry": self._telemetry,
            "rate_limits": self._rate_limits,
            "circuit_breaker": self._circuit_breaker,
        }
        if settings.timeout_seconds is not None:
            common["timeout"] = settings.timeout_seconds
        return common

    @cached_property
    def embeddings(self) -> ReliableOpenAIEmbeddings:
        """The embedding model, counted by this service."""
        return ReliableOpenAIEmbeddings(model=self._settings.embedding_model, **self._common())

    @property
    def usage(self) -> UsageReport:
        """What this service's models have used so far; live."""
        return self._counter.usage

    def get_token_usage(self) -> dict[str, int]:
        """Return `total_tokens`, `prompt_tokens` and `completion_tokens` of everything so far."""
        return self._counter.get_stats()

    def chat_completion(
        self, messages: Messages, temperature: float | None = None, max_tokens: int | None = None
    ) -> ChatCompletion:
        """Ask the chat model and wait for the whole answer.

        Args:
            messages: OpenAI's dictionaries (`{"role": "user", "content": "…"}`), LangChain messages, pairs of
                role and content, or one string as the user's message.
            temperature: Sampling temperature from 0 to 2; where None, the service's, else 0.7. Not sent to
                models that take none.
            max_tokens: The longest answer in tokens; no limit but the model's where None.

        Returns:
            `content`, `role` and `usage` (`prompt_tokens`, `completion_tokens`, `total_tokens`).

        Raises:
            ValueError: `messages` is empty or not understood, or a number is out of range.
            openai.OpenAIError: The call failed, after its retries, or can't succeed.
            TruncatedResponseError: No attempt brought a whole answer.
        """
        prompt, options = self._request(messages, temperature, max_tokens)
        with _logged("chat completion"):
            return completion(self.chat_model.invoke(prompt, **options))

    async def achat_completion(
        self, messages: Messages, temperature: float | None = None, max_tokens: int | None = None
    ) -> ChatCompletion:
        """Ask the chat model; as `chat_completion`."""
        prompt, options = self._request(messages, temperature, max_tokens)
        with _logged("chat completion"):
            return completion(await self.chat_model.ainvoke(prompt, **options))

    def stream_chat(
        self, messages: Messages, temperature: float | None = None, max_tokens: int | None = None
    ) -> Iterator[str]:
        """Yield the answer's text piece by piece; arguments and errors as `chat_completion`.

        Raises:
            TruncatedResponseError: The stream broke after its first piece; `.partial` has what came.
        """
        prompt, options = self._request(messages, temperature, max_tokens)

        def pieces() -> Iterator[str]:
            with _logged("chat stream"):
                for chunk in self.chat_model.stream(prompt, **options):
                    if text := chunk.text:
                        yield str(text)

        return pieces()

    def astream_chat(
        self, messages: Messages, temperature: float | None = None, max_tokens: int | None = None
    ) -> AsyncIterator[str]:
        """Yield the answer's text piece by piece; as `stream_chat`."""
        prompt, options = self._request(messages, temperature, max_tokens)

        async def pieces() -> AsyncIterator[str]:
            with _logged("chat stream"):
                async for chunk in self.chat_model.astream(prompt, **options):
                    if text := chunk.text:
                        yield str(text)

        return pieces()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector for each text, in their order.

        Args:
            texts: Any number of texts, none included; a long one is split and its vectors averaged.

        Raises:
            TypeError: `texts` is one string: pass a list.
            openai.OpenAIError: A request failed, after its retries, or can't succeed.
        """
        with _logged("embedding"):
            return self.embeddings.embed_documents(text_list(texts))

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector for each text, in their order; as `embed`."""
        with _logged("embedding"):
            return await self.embeddings.aembed_documents(text_list(texts))

    def _request(
        self, messages: Messages, temperature: float | None, max_tokens: int | None
    ) -> tuple[list[BaseMessage], dict[str, Any]]:
        if temperature is not None and not 0 <= temperature <= 2:
            raise ValueError(f"temperature must be from 0 to 2, not {temperature!r}.")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens!r}.")
        options: dict[str, Any] = {}
        if self._takes_temperature:
            service_temperature = self._settings.temperature
            default = _DEFAULT_TEMPERATURE if service_temperature is None else service_temperature
            options["temperature"] = default if temperature is None else temperature
        if max_tokens is not None:
            options["max_tokens"] = max_tokens
        return read_messages(messages), options

    @property
    def _takes_temperature(self) -> bool:
        profile = self.chat_model.profile or {}
        # A dated snapshot or a fine-tune may have no profile; what its family takes is in the name.
        return bool(profile.get("temperature", not _REASONING_MODEL.match(self._settings.model)))

    def __repr__(self) -> str:
        return f"OpenAIService(model={self._settings.model!r}, usage={self.usage!r})"


def _open_ledger(ledger: UsageLedger | str | PathLike[str] | Literal[False] | None) -> UsageLedger | None:
    if not isinstance(ledger, (str, PathLike)):
        return ledger or None
    from lc_service.accounting.ledger import UsageLedger  # noqa: PLC0415  brings SQLAlchemy

    return UsageLedger(ledger)


def _set_budget(usd: Decimal | None) -> Budget | None:
    if usd is None:
        return None
    from lc_service.accounting.budget import Budget  # noqa: PLC0415  for those who set one

    return Budget(usd=usd)


_DEFAULT_TEMPERATURE = 0.7
_REASONING_MODEL = re.compile(r"(ft:)?(o\d|gpt-[5-9])")


@contextmanager
def _logged(operation: str) -> Iterator[None]:
    """Log how a call ended: never what was asked or answered, nor an error's text, which may quote it."""
    started = clock.now()
    try:
        yield
    except Exception as error:
        verdict = classify(error)
        logger.error(  # noqa: TRY400  a traceback would show the request
            "%s failed after %.2f s: %s (%s, HTTP %s, request id %s)",
            operation,
            clock.now() - started,
            verdict.kind,
            type(error).__name__,
            verdict.status_code or "-",
            verdict.request_id or "-",
        )
        raise
    logger.info("%s finished in %.2f s", operation, clock.now() - started)
