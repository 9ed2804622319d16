"""Say which prompt gave an answer: a stable hash of its words, carried by every run of a chain.

Equal words give equal fingerprints, in every process and under every version of LangChain. What a
fingerprint leaves out: the input, the model and its settings, and the order of a chain's prompts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage
from langchain_core.prompts import (
    AIMessagePromptTemplate,
    BasePromptTemplate,
    ChatMessagePromptTemplate,
    ChatPromptTemplate,
    HumanMessagePromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
    SystemMessagePromptTemplate,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBinding

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")

_ROLES = {
    AIMessagePromptTemplate: "ai",
    HumanMessagePromptTemplate: "human",
    SystemMessagePromptTemplate: "system",
}
_HEX_DIGITS = 16


def prompt_fingerprint(prompt_or_chain: Runnable[Any, Any]) -> str:
    """Return the hash of what a prompt, or each prompt of a chain, tells the model before any input.

    Args:
        prompt_or_chain: A prompt template of texts and messages, or a runnable that has some in it.
            Partial variables count where they are values; a function counts by its variable's name.

    Returns:
        16 hexadecimal digits. A chain of one prompt has the fingerprint of that prompt.

    Raises:
        ValueError: There is no prompt in the chain.
        TypeError: The prompt holds something else than text, such as an image.

    Example:
        >>> prompt = ChatPromptTemplate.from_messages([("human", "Name {count} islands.")])
        >>> prompt_fingerprint(prompt)
        'a7743b495cdaa2ed'
    """
    prompts = {_hash(_words(prompt)) for prompt in prompt_or_chain.get_prompts()}
    if not prompts:
        raise ValueError(f"there is no prompt in {prompt_or_chain.get_name()}")
    return prompts.pop() if len(prompts) == 1 else _hash(sorted(prompts))


def as_task(
    chain: Runnable[Any, OutputT], name: str, *, version: str, input_type: type[InputT]
) -> Runnable[InputT, OutputT]:
    """Give a chain what all chains here have: a name, a tag, a typed input, its prompt's identity.

    Args:
        chain: The chain, with its prompts in it.
        name: The task. It is the `run_name`, and the tag is `chains:<name>`.
        version: The `PROMPT_VERSION` of the chain's module.
        input_type: The typed dictionary that the chain takes.

    Returns:
        The chain, with `prompt_version` and `prompt_fingerprint` in the metadata of its runs.
    """
    task: RunnableBinding[Any, OutputT] = RunnableBinding(
        bound=chain,
        config={"run_name": name, "tags": [f"chains:{name}"]},
        config_factories=[PromptStamp(version, prompt_fingerprint(chain))],
    )
    return task.with_types(input_type=input_type)


@dataclass(frozen=True)
class PromptStamp:
    """What the runs of one chain are marked with, also where the chain stands in another one."""

    version: str
    fingerprint: str

    def __call__(self, config: RunnableConfig) -> RunnableConfig:  # noqa: ARG002 - LangChain passes it
        """Return the config to merge last: over a bound one, the stamp of an outer chain would win."""
        return {"metadata": {"prompt_version": self.version, "prompt_fingerprint": self.fingerprint}}


def _hash(words: Any) -> str:
    canonical = json.dumps(words, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HEX_DIGITS]


def _words(part: Any) -> Any:
    if part is None or isinstance(part, str | int | float):
        return part
    if isinstance(part, list):
        return [_words(each) for each in part]
    if isinstance(part, PromptTemplate):
        return [part.template_format, part.template, _partials(part)]
    if isinstance(part, ChatPromptTemplate):
        return [_words(part.messages), _partials(part)]
    if isinstance(part, MessagesPlaceholder):
        return ["messages", part.variable_name, part.n_messages]
    if isinstance(part, ChatMessagePromptTemplate):
        return [part.role, _words(part.prompt)]
    if isinstance(part, BaseMessage) and isinstance(part.content, str):
        return [part.type, part.content]
    if type(part) in _ROLES:
        return [_ROLES[type(part)], _words(part.prompt)]
    raise TypeError(f"cannot tell the words of a {type(part).__name__}")


def _partials(prompt: BasePromptTemplate[Any]) -> dict[str, Any]:
    # an optional placeholder is a partial too: its value is an empty list
    return {
        name: None if callable(value) else _words(value) for name, value in prompt.partial_variables.items()
    }
