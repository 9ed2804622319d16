"""`ReliableChatOpenAI`: LangChain's ChatOpenAI with the retry inside.

Everything ChatOpenAI does stays: tools, structured output, streaming, batches, agents. One policy takes the
place of the SDK's retries and of `RunnableRetry`. Does not limit the rate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI
from pydantic import ConfigDict, Field, InstanceOf, model_validator

from lc_service.accounting.prompt import count_messages
from lc_service.accounting.reported import read_result
from lc_service.accounting.tokenizer import TokenEstimator, estimator_for
from lc_service.models.answer import mark_malformed, require_end
from lc_service.models.chat_request import chat_request, wire_messages
from lc_service.models.client import (
    async_client_options,
    client_options,
    langchain_policy_changes,
    read_max_retries,
    require_sendable_key,
)
from lc_service.models.pipeline import AnyRunManager, Call
from lc_service.models.request import accounts
from lc_service.models.run import (
    afirst_in_run,
    aon_wait,
    first_in_run,
    handed_over,
    handed_over_run,
    on_wait,
    stream_run,
)
from lc_service.models.whole_stream import awhole_stream, has_content, whole_stream
from lc_service.retry.policy import RetryOn, RetryWithExponentialBackoff, aretry_call, retry_call
from lc_service.retry.stream import aretry_stream, retry_stream


class ReliableChatOpenAI(ChatOpenAI):
    """ChatOpenAI that retries the right way and never passes a partial answer off as whole.

    Takes all of ChatOpenAI's arguments. What differs:

    - `retry` decides about retries; the SDK's own are off. `max_retries=N` is short for a default policy with
      N retries. Invoke and its batches retry until an answer is whole; a stream, and invoke
      with `streaming=True`, until its first content.
    - Without a `timeout`, the SDK's default holds (600 s for an answer, 5 s to connect); ChatOpenAI waits
      for ever. `timeout=None`, said explicitly, still means no limit.
    - `stream_usage` is on whatever the base URL; `stream_usage=False` is for servers that refuse it.
    - Asynchronous connections belong to the event loop that opened them and are closed with it.
    - `get_num_tokens` and its kin count without a download, tools included, for any model.
    - It can be pickled; the copy opens its own connections.

    Safe to share between threads, tasks and event loops.

    Args:
        retry: When and how often to try again.
        budget: A `Budget`, or several, that every attempt must fit into before it is sent.
        ledger: A `UsageLedger` that keeps a row for every attempt.
        telemetry: A `Telemetry` that tells OpenTelemetry of every call.

    Raises:
        BudgetExceeded: The call does not fit into `budget`. Nothing has been sent.
        TruncatedResponseError: The end of an answer never came; what came is in `.partial`.
        MalformedResponseError: A 200 that is no API answer.
        openai.OpenAIError: Everything else, as ChatOpenAI raises it.

    Example:
        >>> from langchain_core.prompts import ChatPromptTemplate
        >>> model = ReliableChatOpenAI(model="gpt-5.4-mini", api_key="sk-...")
        >>> chain = ChatPromptTemplate.from_template("Say hello to {name}.") | model
    """

    retry: InstanceOf[RetryWithExponentialBackoff] = Field(
        default_factory=RetryWithExponentialBackoff, exclude=True
    )
    budget: Any = Field(default=None, exclude=True)
    ledger: Any = Field(default=None, exclude=True)
    telemetry: Any = Field(default=None, exclude=True)
    stream_usage: bool | None = True

    # What pydantic would show of a refused input may be the key.
    model_config = ConfigDict(hide_input_in_errors=True)

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialise as the ChatOpenAI this is, so that LangChain's cache and `load` know it."""
        return [*cls.get_lc_namespace(), "ChatOpenAI"]

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Serialise under ChatOpenAI's name too: what was cached for it is found."""
        serialized = super().to_json()
        if serialized["type"] == "constructor" and self.name is None:
            serialized["name"] = "ChatOpenAI"
        return serialized

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
            self.client = self.root_client.chat.completions
        if isinstance(self.root_async_client, openai.AsyncOpenAI):
            self.root_async_client = self.root_async_client.with_options(**async_client_options(self))
            self.async_client = self.root_async_client.chat.completions
        return self

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
        return estimator_for(self.tiktoken_model_name or self.model_name)

    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        try:
            result = super()._create_chat_result(response, generation_info)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            mark_malformed(error)
            raise
        choices = response["choices"] if isinstance(response, dict) else getattr(response, "choices", ())
        if len(choices) > 1:
            # LangChain gives all choices one dictionary: the last finish_reason would stand for each.
            for generation, choice in zip(result.generations, choices, strict=True):
                generation.generation_info = {**(generation.generation_info or {}), **_choice_info(choice)}
        return result

    def _is_background(self, options: Mapping[str, Any]) -> bool:
        return bool(options.get("background") or self.model_kwargs.get("background"))

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Stream an answer; as ChatOpenAI does, and each attempt is counted."""
        config, manager = stream_run(self, config, CallbackManagerForLLMRun)
        return first_in_run(super().stream(input, config, stop=stop, **kwargs), manager)

    def astream(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream an answer; as `stream`."""
        config, manager = stream_run(self, config, AsyncCallbackManagerForLLMRun)
        return afirst_in_run(super().astream(input, config, stop=stop, **kwargs), manager)

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with handed_over(run_manager):
            return super()._generate_with_cache(messages, stop, run_manager, **kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with handed_over(run_manager):
            return await super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generate = super()._generate
        call = self._call(messages, kwargs, run_manager)

        def attempt() -> ChatResult:
            with call.attempt() as attempt, attempt.sending():
                result = generate(messages, stop, run_manager, **kwargs)
                attempt.reported = read_result(result.llm_output, result.generations)
                return require_end(result, is_background=self._is_background(kwargs))

        with call:
            return retry_call(self.retry, attempt, on_wait(call, self.rate_limiter))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generate = super()._agenerate
        call = self._call(messages, kwargs, run_manager)

        async def attempt() -> ChatResult:
            async with call.attempt() as attempt:
                with attempt.sending():
                    result = await generate(messages, stop, run_manager, **kwargs)
                attempt.reported = read_result(result.llm_output, result.generations)
                return require_end(result, is_background=self._is_background(kwargs))

        with call:
            return await aretry_call(self.retry, attempt, aon_wait(call, self.rate_limiter))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        stream = super()._stream
        call = self._call(messages, kwargs, run_manager or handed_over_run(), is_stream=True)

        def attempt() -> Iterator[ChatGenerationChunk]:
            return whole_stream(
                lambda: stream(messages, stop, run_manager, **kwargs),
                call.attempt(),
                choices=call.request.choices,
            )

        with call:
            yield from retry_stream(self.retry, attempt, on_wait(call, self.rate_limiter), has_content)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        stream = super()._astream
        call = self._call(messages, kwargs, run_manager or handed_over_run(), is_stream=True)

        def attempt() -> AsyncIterator[ChatGenerationChunk]:
            return awhole_stream(
                lambda: stream(messages, stop, run_manager, **kwargs),
                call.attempt(),
                choices=call.request.choices,
            )

        retried = aretry_stream(self.retry, attempt, aon_wait(call, self.rate_limiter), has_content)
        with call:
            async with aclosing(retried):  # or a stream that is left would end at the collector's convenience
                async for chunk in retried:
                    yield chunk

    def _call(
        self,
        messages: Sequence[BaseMessage],
        options: Mapping[str, Any],
        run_manager: AnyRunManager | None,
        *,
        is_stream: bool = False,
    ) -> Call:
        request = chat_request(self, self._estimator(), messages, options, is_stream=is_stream)
        return Call(request, accounts(self.budget, self.ledger, self.telemetry), run_manager)


_CLIENT_FIELDS = ("client", "async_client", "root_client", "root_async_client")


def _choice_info(choice: Any) -> dict[str, Any]:
    fields = choice if isinstance(choice, dict) else choice.model_dump(include={"finish_reason", "logprobs"})
    return {name: fields[name] for name in ("finish_reason", "logprobs") if name in fields}
