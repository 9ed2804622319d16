"""What a chat call asks for, read from the model and the options of the call, for those who account for it.

Reads; changes nothing that is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langchain_openai.chat_models.base import BaseChatOpenAI

from lc_service.accounting.prompt import PromptEstimate, estimate_prompt, max_prompt_tokens
from lc_service.accounting.tokenizer import TokenEstimator
from lc_service.models.request import Request

_MAX_TOKENS_OPTIONS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def chat_request(
    model: BaseChatOpenAI,
    estimator: TokenEstimator,
    messages: Sequence[BaseMessage],
    options: Mapping[str, Any],
    *,
    is_stream: bool = False,
) -> Request:
    """Describe the call that `model` makes of `messages` with `options`."""
    said = {**model.model_kwargs, **options}
    choices = int(said.get("n") or model.n or 1)
    longest = next((said[name] for name in _MAX_TOKENS_OPTIONS if said.get(name)), model.max_tokens)
    profile = model.profile or {}

    def measure() -> PromptEstimate:
        estimate = estimate_prompt(estimator, wire_messages(messages), _schemas(said))
        # What the server adds from earlier answers does not show here: nothing can be learnt from it.
        is_whole = not (said.get("previous_response_id") or model.use_previous_response_id)
        return estimate if is_whole else PromptEstimate(estimate.tokens, 0)

    def bound() -> int | None:
        bounds = (max_prompt_tokens(wire_messages(messages), _schemas(said)), profile.get("max_input_tokens"))
        return min((each for each in bounds if each is not None), default=None)

    longest = longest or profile.get("max_output_tokens")
    return Request(
        model=str(said.get("model") or model.model_name),
        estimator=estimator,
        measure=measure,
        bound=bound,
        max_output_tokens=longest and int(longest) * choices,
        choices=choices,
        service_tier=said.get("service_tier") or model.service_tier,
        is_stream=is_stream,
        server=getattr(model.root_async_client or model.root_client, "base_url", None),
        parameters={"temperature": model.temperature, "max_tokens": longest, "n": choices, **said},
    )


def wire_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages as Chat Completions takes them."""
    wire = convert_to_openai_messages(messages)
    return wire if isinstance(wire, list) else [wire]


def _schemas(options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the tools and the answer's schema, which the server counts as part of the prompt."""
    schemas = [tool for tool in options.get("tools") or () if isinstance(tool, Mapping)]
    wanted = options.get("response_format")
    if isinstance(wanted, Mapping) and isinstance(schema := wanted.get("json_schema"), Mapping):
        schemas.append({"name": schema.get("name"), "parameters": schema.get("schema")})
    return schemas
