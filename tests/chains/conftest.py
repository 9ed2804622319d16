"""A chat model that keeps what it was sent, and a server that answers by a script."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from lc_service import (
    ReliableChatOpenAI,
    ReliableOpenAIEmbeddings,
    RetryWithExponentialBackoff,
    UsageReport,
)
from lc_service.simulator import Simulator
from lc_service.simulator.app import ENDPOINTS
from lc_service.simulator.errors import ApiError
from lc_service.simulator.prompt import Prompt
from lc_service.simulator.reply import Choice, Reply, ToolCall
from lc_service.simulator.tokens import split_tokens


class RecordingChatModel(BaseChatModel):
    """Answers with the length of the human message, so answers can be told apart."""

    seen: list[list[BaseMessage]] = Field(default_factory=list)
    is_echo: bool = False
    """Whether the human message follows, as a faithful translator would leave what it must."""

    @property
    def _llm_type(self) -> str:
        return "recording"

    def _answer(self, messages: list[BaseMessage]) -> str:
        self.seen.append(messages)
        echo = f"\n{messages[-1].text}" if self.is_echo else ""
        return f"{len(messages[-1].text)} characters read{echo}"

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
        ((system, *_),) = self.seen
        return system.text

    @property
    def human(self) -> str:
        """The human message of the only call."""
        ((*_, human),) = self.seen
        assert human.type == "human"
        return human.text


@pytest.fixture
def model() -> RecordingChatModel:
    return RecordingChatModel()


class Notes(RecordingChatModel):
    """Answers with a note for each part, and counts a token for each word."""

    note: str = "note"
    running: int = 0
    most_running: int = 0

    def _answer(self, messages: list[BaseMessage]) -> str:
        super()._answer(messages)
        echo = f"\n{messages[-1].text}" if self.is_echo else ""
        return f"{self.note} {len(self.seen)}{echo}"

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await asyncio.sleep(0.001)
        self.running -= 1
        return self._generate(messages)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:
        return sum(len(message.text.split()) for message in messages)

    def fenced(self) -> list[str]:
        """Return what stood in the last block of each call."""
        return [messages[-1].text.rsplit("\n<", 1)[0].split(">\n")[-1] for messages in self.seen]


@pytest.fixture
def notes() -> type[Notes]:
    return Notes


class ScriptedServer:
    """A simulator whose chat answers are those of a script; bill, tokens, streams, errors are its own."""

    window_tokens = 4_000

    def __init__(self) -> None:
        self.script: deque[str | Choice] = deque()
        self.simulator = Simulator(context_window_tokens=self.window_tokens, max_lifetime_seconds=600)

    def says(self, *answers: str | Choice) -> None:
        """Give these answers next, one for each request; a `Choice` says how it ended, too."""
        self.script.extend(answers)

    def cut(self, text: str) -> Choice:
        """Return an answer that ended at its greatest length."""
        return Choice(pieces=tuple(split_tokens(text)), finish_reason="length")

    def model(self, **options: Any) -> ReliableChatOpenAI:
        retry = RetryWithExponentialBackoff(initial_delay=0.001, max_delay=0.01)
        options = {"model": "gpt-4.1-mini", "api_key": "sk-test", "retry": retry} | options
        return ReliableChatOpenAI(base_url=self.simulator.base_url, **options)

    def embeddings(self) -> ReliableOpenAIEmbeddings:
        return ReliableOpenAIEmbeddings(
            model="text-embedding-3-small", api_key="sk-test", base_url=self.simulator.base_url
        )

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of the chat requests so far."""
        return [
            json.loads(each.body) for each in self.simulator.requests if each.path.endswith("completions")
        ]

    @property
    def messages(self) -> list[list[tuple[str, str]]]:
        """Roles and texts of the chat requests so far."""
        return [[(each["role"], each["content"]) for each in body["messages"]] for body in self.asked]

    def compose(self, prompt: Prompt) -> Reply:
        if not self.script:
            raise ApiError(400, "the script is over")
        answer = self.script.popleft()
        choice = answer if isinstance(answer, Choice) else Choice(pieces=tuple(split_tokens(answer)))
        if prompt.tools:
            call = ToolCall(name=prompt.tools[0].name, pieces=choice.pieces)
            reason = "length" if choice.finish_reason == "length" else "tool_calls"
            choice = Choice(tool_calls=(call,), finish_reason=reason)
        return Reply(prompt=prompt, choices=(choice,))


@pytest.fixture(scope="session")
def _scripted_server() -> Iterator[ScriptedServer]:
    server, path = ScriptedServer(), "/v1/chat/completions"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENDPOINTS, path, replace(ENDPOINTS[path], answer=server.compose))
        server.simulator.start()
    yield server
    server.simulator.stop()


@pytest.fixture
def server(_scripted_server: ScriptedServer) -> ScriptedServer:
    _scripted_server.script.clear()
    _scripted_server.simulator.set_faults(None)
    _scripted_server.simulator.reset()
    return _scripted_server


@pytest.fixture
def same_as_bill(server: ScriptedServer) -> Callable[[UsageReport], None]:
    """Check that what was counted is what the server billed."""

    def check(usage: UsageReport) -> None:
        billed, counted = server.simulator.bill.total, usage.total
        assert billed.total_tokens > 0
        assert (counted.input_tokens, counted.output_tokens) == (billed.input_tokens, billed.output_tokens)

    return check
