"""`init_chat_model`: a chat model by its name, with the arguments of LangChain's function of that name.

A name that is not OpenAI's or Azure's is refused, not guessed. Registers nothing with LangChain, whose own
`init_chat_model` makes its own classes.
"""

from __future__ import annotations

from typing import Any

from lc_service.models.azure import ReliableAzureChatOpenAI
from lc_service.models.chat import ReliableChatOpenAI

_CLASSES: dict[str, type[ReliableChatOpenAI | ReliableAzureChatOpenAI]] = {
    "openai": ReliableChatOpenAI,
    "azure_openai": ReliableAzureChatOpenAI,
}
_FINE_TUNED = "ft"


def init_chat_model(
    model: str, *, model_provider: str | None = None, **options: Any
) -> ReliableChatOpenAI | ReliableAzureChatOpenAI:
    """Make a reliable chat model by name, as `langchain.chat_models.init_chat_model` makes a stock one.

    For a model that the caller of a chain chooses, use LangChain's `configurable_fields` and
    `configurable_alternatives` on what this returns.

    Args:
        model: `"openai:gpt-5.4-mini"`, `"azure_openai:gpt-5.4-mini"`, or the name alone for OpenAI's API and
            whatever speaks its protocol at a `base_url`. Azure's deployment is `azure_deployment`.
        model_provider: `"openai"` or `"azure_openai"`; the name is then taken as it is, colons included.
        **options: The model's own arguments.

    Raises:
        ValueError: The provider is another.

    Example:
        >>> init_chat_model("openai:gpt-5.4-mini", api_key="sk-...").model_name
        'gpt-5.4-mini'
    """
    name = model
    if model_provider is None:
        prefix, colon, rest = model.partition(":")
        model_provider = "openai"
        if colon and prefix != _FINE_TUNED:
            model_provider, name = prefix, rest
    cls = _CLASSES.get(model_provider.replace("-", "_").lower())
    if cls is None:
        raise ValueError(
            f"{model_provider!r} is not one of {', '.join(_CLASSES)}. If it is part of the model's name, say "
            'model_provider="openai" too.'
        )
    return cls(model=name, **options)
