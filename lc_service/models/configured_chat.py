"""What gives a chat model of LangChain's for OpenAI a retry policy, and those who account for it, as fields.

Mixed into ChatOpenAI and AzureChatOpenAI: made, copied, pickled, serialised. A copy with another policy stays
a chat model of its class. Makes no call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import openai
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, field_validator, model_validator

from lc_service.accounting.prompt import count_messages
from lc_service.accounting.tokenizer import TokenEstimator, estimator_for
from lc_service.limits.circuit import CircuitBreaker
from lc_service.limits.hedge import Hedge
from lc_service.limits.rate_limits import LEARNED, read_rate_limits
from lc_service.models.chat_request import wire_messages
from lc_service.models.client import (
    async_client_options,
    client_options,
    langchain_policy_changes,
    read_max_retries,
    require_sendable_key,
)
from lc_service.models.completions import AsyncPlainCompletions, PlainCompletions
from lc_service.models.dump import CompletionDump
from lc_service.models.request import BudgetField, LedgerField, RateLimitsField, TelemetryField
from lc_service.retry.policy import RetryOn, RetryWithExponentialBackoff

if TYPE_CHECKING:
    from langchain_openai.chat_models.base import BaseChatOpenAI as MixedInto
else:
    # Pydantic takes a field from the first base that has it, whatever the order of methods: a mix-in that had
    # LangChain's fields as well would undo what ChatOpenAI and AzureChatOpenAI change in them.
    MixedInto = BaseModel


class ConfiguredChat(MixedInto):
    """What a reliable chat model is before it makes calls; stands before LangChain's class among the bases.

    Its arguments are described in `ReliableChatOpenAI`.
    """

    retry: InstanceOf[RetryWithExponentialBackoff] = Field(
        default_factory=RetryWithExponentialBackoff, exclude=True
    )
    budget: BudgetField = Field(default=None, exclude=True)
    ledger: LedgerField = Field(default=None, exclude=True)
    telemetry: TelemetryField = Field(default=None, exclude=True)
    rate_limits: RateLimitsField = Field(default=LEARNED, exclude=True)
    circuit_breaker: InstanceOf[CircuitBreaker] | None = Field(default_factory=CircuitBreaker, exclude=True)
    hedge: InstanceOf[Hedge] | None = Field(default=None, exclude=True)
    stream_usage: bool | None = True

    if TYPE_CHECKING:
        # LangChain's types know no plain text here, which it takes, as in all of its examples.
        openai_api_key: Any = Field(default=None, alias="api_key")
        # The constructor takes both names. A field has one for type checkers, so they are told of two.
        max_tokens: int | None = Field(default=None)
        max_completion_tokens: int | None = Field(default=None)

    # What pydantic would show of a refused input may be the key.
    model_config = ConfigDict(hide_input_in_errors=True)

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialise as the ChatOpenAI this is, so that LangChain's cache and `load` know it."""
        return [*cls.get_lc_namespace(), cls._stock_name()]

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Serialise under ChatOpenAI's name too: what was cached for it is found."""
        serialized = super().to_json()
        if serialized["type"] == "constructor" and self.name is None:
            serialized["name"] = self._stock_name()
        return serialized

    @classmethod
    def _stock_name(cls) -> str:
        """Return the name of LangChain's class that this is mixed into."""
        return next(base.__name__ for base in cls.__mro__ if base.__module__.startswith("langchain_openai."))

    @field_validator("rate_limits")
    @classmethod
    def _read_rate_limits(cls, value: Any) -> Any:
        return read_rate_limits(value)

    @model_validator(mode="before")
    @classmethod
    def _read_max_retries(cls, values: Any) -> Any:
        """Read ChatOpenAI's `max_retries` as the policy's."""
        is_copy = isinstance(values, dict) and values.get("root_async_client") is not None
        return read_max_retries(values, is_copy=is_copy)

    @model_validator(mode="after")
    def _own_clients(self) -> Self:
        """Switch the SDK's retries off, give it a timeout, and bind async connections to their loop."""
        require_sendable_key(self)
        if isinstance(self.root_client, openai.OpenAI):
            self.root_client = self.root_client.with_options(**client_options(self))
            self.client = self._completions(self.root_client, PlainCompletions)
        if isinstance(self.root_async_client, openai.AsyncOpenAI):
            self.root_async_client = self.root_async_client.with_options(**async_client_options(self))
            self.async_client = self._completions(self.root_async_client, AsyncPlainCompletions)
        return self

    def _completions(self, client: Any, plain: Callable[[Any], object]) -> object:
        """Return the resource that LangChain asks: the plain one where nobody but us reads its answers."""
        reader = type(self)._create_chat_result  # noqa: SLF001  a subclass's own, or ours
        is_ours = reader.__module__.startswith("lc_service.")
        is_plain = is_ours and type(client) in (openai.OpenAI, openai.AsyncOpenAI)
        return plain(client) if is_plain else client.chat.completions

    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        if isinstance(response, CompletionDump) and result.generations:
            # LangChain takes it from the SDK's model only.
            refusal = response["choices"][0]["message"]["refusal"]
            result.generations[0].message.additional_kwargs["refusal"] = refusal
        return result

    def with_retry(  # type: ignore[override]
        self,
        *,
        retry: RetryWithExponentialBackoff | None = None,
        retry_if_exception_type: RetryOn | None = None,
        wait_exponential_jitter: bool | None = None,
        exponential_jitter_params: Mapping[str, float] | None = None,
        stop_after_attempt: int | None = None,
    ) -> Self:
        """Return a model of the same class with another policy: it binds tools and serves agents as before.

        Args:
            retry: The new policy; or LangChain's own arguments, which change the present one:
            retry_if_exception_type: Types or a predicate, see `RetryWithExponentialBackoff.retry_on`.
            wait_exponential_jitter: False takes the jitter away; the waits stay.
            exponential_jitter_params: `initial`, `max` and `exp_base`; `jitter` is not needed here.
            stop_after_attempt: Attempts in all, the first one included.

        Raises:
            ValueError: `retry` was given together with LangChain's arguments, or a value is out of range.
        """
        changes = langchain_policy_changes(
            self.retry,
            retry_if_exception_type=retry_if_exception_type,
            wait_exponential_jitter=wait_exponential_jitter,
            exponential_jitter_params=exponential_jitter_params,
            stop_after_attempt=stop_after_attempt,
        )
        if retry is not None and changes:
            raise ValueError(f"Give with_retry either retry or LangChain's arguments, not both ({changes}).")
        return self.model_copy(update={"retry": retry or replace(self.retry, **changes)})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy, without the serialised form that LangChain's cache would take for the copy's own.

        `max_retries`, where it was given, and the policy's are kept the same.
        """
        changes = dict(update or {})
        if "retry" in changes and self.max_retries is not None:
            changes["max_retries"] = changes["retry"].max_retries
        elif changes.get("max_retries") is not None:
            changes["retry"] = replace(self.retry, max_retries=changes["max_retries"])
        copy = super().model_copy(update=changes, deep=deep)
        copy.__dict__.pop("_serialized", None)
        return copy

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; LangChain's cache key is made anew (langchain#35308)."""
        super().__setattr__(name, value)
        self.__dict__.pop("_serialized", None)

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out the clients: sockets and locks cannot travel."""
        state = super().__getstate__()
        fields = {name: value for name, value in state["__dict__"].items() if name != "_serialized"}
        fields |= dict.fromkeys(_CLIENT_FIELDS)
        if self.openai_proxy:  # made from it, not the caller's
            fields |= {"http_client": None, "http_async_client": None}
        return {**state, "__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        validators: Any = self  # pydantic's validators stay callable; its types do not say so
        validators.validate_environment()
        validators._own_clients()  # noqa: SLF001

    def get_num_tokens(self, text: str) -> int:
        """Count a text's tokens without a download: exactly where tiktoken's file is here, else estimated."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens(text)
        return self._estimator().count(text)

    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
        *,
        allow_fetching_images: bool = False,
    ) -> int:
        """Count a prompt's tokens, tools included; as `get_num_tokens`. Of any model, and never a failure.

        Pictures count a flat figure (docs/token-estimates.md): nothing is fetched to measure them.
        """
        del allow_fetching_images
        schemas = [convert_to_openai_tool(tool) for tool in tools or ()]
        return count_messages(self._estimator(), wire_messages(messages), schemas)

    def _estimator(self) -> TokenEstimator:
        return estimator_for(self.tiktoken_model_name or self._asked_model())

    def _asked_model(self) -> str:
        """Return the model's name, for those who count and price."""
        return self.model_name


_CLIENT_FIELDS = ("client", "async_client", "root_client", "root_async_client")
