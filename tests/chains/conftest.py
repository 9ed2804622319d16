"""A scripted chat model that keeps what it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field


class RecordingChatModel(BaseChatModel):
    """Answers with the length of the human message, so answers can be told apart."""

    seen: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "recording"

    def _answer(self, messages: list[BaseMessage]) -> str:
        self.seen.append(messages)
        return f"{len(messages[-1].text)} characters read"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        message = AIMessage(content=self._answer(messages))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for word in self._answer(messages).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))

    @property
    def system(self) -> str:
        """The system prompt of the only call."""
        ((system, _),) = self.seen
        return system.text

    @property
    def human(self) -> str:
        """The human message of the only call."""
        ((_, human),) = self.seen
        assert human.type == "human"
        return human.text


@pytest.fixture
def model() -> RecordingChatModel:
    return RecordingChatModel()
