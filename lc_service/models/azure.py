"""`ReliableAzureChatOpenAI` and `ReliableAzureOpenAIEmbeddings`: the same, over LangChain's Azure classes.

A deployment has its own rate limits, whoever asks it. What Azure's content filter took away is an error that
is not retried. Chooses no price: the model behind a deployment is what its answers name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings
from openai.types.chat import ChatCompletion
from pydantic import Field

from lc_service.limits.limiter import RateLimiter
from lc_service.models.flow import limiter_of
from lc_service.models.reliable_chat import ReliableChat
from lc_service.models.reliable_embeddings import ReliableEmbeddings
from lc_service.models.request import Request


class ReliableAzureChatOpenAI(ReliableChat, AzureChatOpenAI):
    """AzureChatOpenAI that retries the right way and never passes a partial answer off as whole.

    Takes all of AzureChatOpenAI's arguments, and `retry`, `budget`, `ledger`, `telemetry`, `rate_limits`,
    `circuit_breaker` and `hedge` as `ReliableChatOpenAI` does; what is said there holds here. Further:

    - Rate limits are learned and kept for each deployment at its endpoint, whatever key or token asks.
    - Tokens are priced by the model that the answer names, with `model_version` where it is given. Before
      there is an answer, a budget in USD needs `model`: a deployment's name tells no price.
    - A token provider is asked anew for every attempt.
    - `stream_usage=False` is for API versions before 2024-09, which refuse it.
    - A server of Azure's v1 API (`.../openai/v1/`) is `ReliableChatOpenAI`'s: give it that as `base_url`.

    Safe to share between threads, tasks and event loops; can be pickled where its token providers can.

    Raises:
        openai.ContentFilterFinishReasonError: The content filter took the answer away; a ValueError too, as
            AzureChatOpenAI raises. Its tokens are counted. A stream ends with that finish_reason instead.
        openai.OpenAIError, BudgetExceeded: These and the others as `ReliableChatOpenAI`.

    Example:
        >>> model = ReliableAzureChatOpenAI(
        ...     azure_endpoint="https://example.openai.azure.com",
        ...     azure_deployment="house",
        ...     model="gpt-4.1-mini",
        ...     api_version="2024-10-21",
        ...     api_key="...",
        ... )
    """

    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        told = response if isinstance(response, dict) else response.model_dump(warnings=False)
        if any(choice.get("finish_reason") == "content_filter" for choice in told.get("choices") or ()):
            raise FilteredAnswerError(ChatCompletion.construct(**told))
        return super()._create_chat_result(response, generation_info)

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation = super()._convert_chunk_to_generation_chunk(
            chunk, default_chunk_class, base_generation_info
        )
        if self.model_version and generation is not None and generation.generation_info:
            # As LangChain names the model of an answer that is not streamed.
            named = generation.generation_info.get("model_name")
            if named:
                generation.generation_info["model_name"] = f"{named}-{self.model_version}"
        return generation

    def _asked_model(self) -> str:
        return self.model_name or self.deployment_name or "unknown"

    def _limiter(self, request: Request) -> RateLimiter | None:
        return limiter_of(self, request, deployment=self.deployment_name or request.model)


class ReliableAzureOpenAIEmbeddings(ReliableEmbeddings, AzureOpenAIEmbeddings):
    """AzureOpenAIEmbeddings that retries each request by itself and counts it.

    Takes all of AzureOpenAIEmbeddings' arguments, and those of `ReliableOpenAIEmbeddings`; what is said there
    holds here, and what `ReliableAzureChatOpenAI` says of deployments, prices and token providers.

    Raises:
        openai.OpenAIError, BudgetExceeded: These and the others as `ReliableOpenAIEmbeddings`.
    """

    if TYPE_CHECKING:
        # mypy takes LangChain's other class, which has no alias, for the one that comes first.
        deployment: str | None = Field(default=None, alias="azure_deployment")

    def _asked_model(self) -> str | None:
        # LangChain's default is no answer to what is behind a deployment.
        return None if "model" in self.model_fields_set else self.deployment

    def _limiter(self, request: Request) -> RateLimiter | None:
        return limiter_of(self, request, deployment=self.deployment or request.model)


class FilteredAnswerError(openai.ContentFilterFinishReasonError, ValueError):
    """The content filter took an answer away; what it cost is on `completion`."""

    def __init__(self, completion: ChatCompletion) -> None:
        super().__init__(completion=completion)

    def __str__(self) -> str:
        return "Azure has not provided the response due to a content filter being triggered"
