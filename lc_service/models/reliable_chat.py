"""The calls of a reliable chat model: the retry inside, and every attempt accounted for.

Mixed into ChatOpenAI and AzureChatOpenAI. Everything they do stays: tools, structured output, streaming,
batches, agents. One policy takes the place of the SDK's retries and of `RunnableRetry`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig

from lc_service.accounting.reported import read_result
from lc_service.limits.limiter import RateLimiter, asking
from lc_service.models.answer import mark_malformed, require_end
from lc_service.models.chat_request import chat_request
from lc_service.models.circuit import abehind, astream_behind, behind, gate_of, stream_behind
from lc_service.models.configured_chat import ConfiguredChat
from lc_service.models.flow import limiter_of
from lc_service.models.hedging import Begins
from lc_service.models.pipeline import AnyRunManager, Call, unwatched
from lc_service.models.race import ahedged, hedged
from lc_service.models.request import Request, accounts
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
from lc_service.retry.policy import aretry_call, retry_call
from lc_service.retry.stream import aretry_stream, retry_stream


class ReliableChat(ConfiguredChat):
    """Retries the right way, and never passes a partial answer off as whole; see `ReliableChatOpenAI`."""

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

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation = super()._convert_chunk_to_generation_chunk(
            chunk, default_chunk_class, base_generation_info
        )
        if generation is not None and (usage := chunk.get("usage")):
            _keep_predictions(usage, generation.message)
        return generation

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

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """As LangChain's; a call within a stream does not wait for that stream's place."""
        # LangChain makes the call in a task of its own; two that are hedged, or asked at once, are two.
        with asking() if len(messages) == 1 and self.hedge is None else nullcontext():
            return await super().agenerate(messages, *args, **kwargs)

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

        def attempt(begins: Begins = unwatched) -> ChatResult:
            with call.attempt(begins) as attempt, attempt.sending():
                result = generate(messages, stop, run_manager, **kwargs)
                attempt.reported = read_result(result.llm_output, result.generations)
                return require_end(result, is_background=self._is_background(kwargs))

        with call:
            raced = hedged(self.hedge, call, attempt, self.rate_limiter)
            guarded = behind(gate_of(self.circuit_breaker, call), raced)
            return retry_call(self.retry, guarded, on_wait(call, self.rate_limiter))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generate = super()._agenerate
        call = self._call(messages, kwargs, run_manager)

        async def attempt(begins: Begins = unwatched) -> ChatResult:
            async with call.attempt(begins) as attempt:
                with attempt.sending():
                    result = await generate(messages, stop, run_manager, **kwargs)
                attempt.reported = read_result(result.llm_output, result.generations)
                return require_end(result, is_background=self._is_background(kwargs))

        with call:
            raced = ahedged(self.hedge, call, attempt, self.rate_limiter)
            guarded = abehind(gate_of(self.circuit_breaker, call), raced)
            return await aretry_call(self.retry, guarded, aon_wait(call, self.rate_limiter))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        stream = super()._stream
        call = self._call(messages, kwargs, run_manager or handed_over_run(), is_stream=True)

        def attempt() -> Generator[ChatGenerationChunk]:
            return whole_stream(
                lambda: stream(messages, stop, run_manager, **kwargs),
                call.attempt(),
                choices=call.request.choices,
            )

        guarded = stream_behind(gate_of(self.circuit_breaker, call), attempt)
        with call:
            yield from retry_stream(self.retry, guarded, on_wait(call, self.rate_limiter), has_content)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        stream = super()._astream
        call = self._call(messages, kwargs, run_manager or handed_over_run(), is_stream=True)

        def attempt() -> AsyncGenerator[ChatGenerationChunk]:
            return awhole_stream(
                lambda: stream(messages, stop, run_manager, **kwargs),
                call.attempt(),
                choices=call.request.choices,
            )

        guarded = astream_behind(gate_of(self.circuit_breaker, call), attempt)
        retried = aretry_stream(self.retry, guarded, aon_wait(call, self.rate_limiter), has_content)
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
        request = chat_request(
            self, self._estimator(), messages, options, asked_model=self._asked_model(), is_stream=is_stream
        )
        return Call(
            request,
            accounts(self.budget, self.ledger, self.telemetry),
            run_manager,
            self._limiter(request),
        )

    def _limiter(self, request: Request) -> RateLimiter | None:
        return limiter_of(self, request)


def _keep_predictions(usage: Mapping[str, Any], message: BaseMessage) -> None:
    """Add to a chunk's usage what LangChain leaves out of it: tokens of a predicted output, where any are."""
    told = usage.get("completion_tokens_details") or {}
    kept = {
        name: told[name]
        for name in ("accepted_prediction_tokens", "rejected_prediction_tokens")
        if told.get(name)
    }
    if kept and isinstance(message, AIMessageChunk) and message.usage_metadata is not None:
        details: Any = message.usage_metadata.setdefault("output_token_details", {})
        details.update(kept)


def _choice_info(choice: Any) -> dict[str, Any]:
    fields = choice if isinstance(choice, dict) else choice.model_dump(include={"finish_reason", "logprobs"})
    return {name: fields[name] for name in ("finish_reason", "logprobs") if name in fields}
