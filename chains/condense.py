"""Bring a document of any length down to one last prompt, by calls that each fit the model.

Whatever the document, no prompt made here is longer than what it was told to keep to, and each round
of notes is shorter than the one before. The last call is the chain's own, so that it can stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, patch_config
from langchain_core.runnables.graph import Graph
from typing_extensions import override

from chains.answer import AnswerError
from chains.material import choose_tag
from chains.parts import split_text
from chains.window import Window

Strategy = Literal["auto", "map_reduce", "refine", "stuff"]
Plan = Generator[list[PromptValue], list[str], PromptValue]

_MAX_PARALLEL_CALLS = 8  # where the caller's config says nothing
_MIN_TEXT_TOKENS = 16
_SHRINKING = 0.9
_SUMMARY_SHARE = 4  # a running summary may take a quarter of what a part and it share


@dataclass(frozen=True)
class Prompts:
    """The prompts of a summary: each takes `tag`, `heading` and `text`; `refine` a summary too."""

    whole: ChatPromptTemplate
    notes: ChatPromptTemplate
    from_notes: ChatPromptTemplate
    refine: ChatPromptTemplate

    def of(self, strategy: Strategy) -> list[ChatPromptTemplate]:
        """Return the prompts that a strategy may come to use."""
        return (
            [self.whole, self.refine] if strategy == "refine" else [self.whole, self.notes, self.from_notes]
        )


class Condense(Runnable[dict[str, Any], PromptValue]):
    """The step before a summary's last call. Safe to share between threads and tasks.

    Args:
        answer: What answers a prompt with a text.
        prompts: The prompts.
        strategy: `"auto"` takes `"map_reduce"` where the whole document does not fit.
        window: What the model takes.

    Raises:
        ValueError: The prompt around a document alone takes `max_tokens`.
        AnswerError: The model's notes are not shorter than what they are about.
    """

    name = "condense"

    def __init__(
        self,
        answer: Runnable[PromptValue, str],
        prompts: Prompts,
        strategy: Strategy,
        window: Window,
    ) -> None:
        self._answer = answer
        self._prompts = prompts
        self._strategy = strategy
        self._window = window

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._strategy}, {self._window.max_tokens}, {self._prompts})"

    @property
    @override
    def InputType(self) -> type[dict[str, Any]]:
        return dict[str, Any]

    @property
    @override
    def OutputType(self) -> type[PromptValue]:
        return PromptValue

    @override
    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        graph = Graph()
        first = graph.add_node(self.get_input_schema(config))
        last = graph.add_node(self.get_output_schema(config))
        start = graph.add_node(self)
        graph.add_edge(first, start)
        whole, *others = (graph.add_node(prompt) for prompt in self._prompts.of(self._strategy))
        graph.add_edge(start, whole, "it fits")
        graph.add_edge(whole, end := graph.add_node(self, id="last_prompt"))
        previous = start
        for node in others:
            graph.add_edge(previous, node, "it is longer" if previous is start else None)
            previous = node
        graph.add_edge(previous, end)
        graph.add_edge(end, last)
        return graph

    @override
    def invoke(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> PromptValue:
        # its type lists no function of input and config, which it takes all the same
        return self._call_with_config(self._run, input, config)  # type: ignore[arg-type]

    @override
    async def ainvoke(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> PromptValue:
        return await self._acall_with_config(self._arun, input, config)  # type: ignore[arg-type]

    def _run(self, document: dict[str, Any], config: RunnableConfig) -> PromptValue:
        plan, answers = self._plan(document), None
        try:
            while True:
                prompts = plan.send(answers) if answers is not None else next(plan)
                answers = self._answer.batch(prompts, bounded(config))
        except StopIteration as done:
            last: PromptValue = done.value
            return last

    async def _arun(self, document: dict[str, Any], config: RunnableConfig) -> PromptValue:
        plan, answers = self._plan(document), None
        while True:
            try:
                prompts = plan.send(answers) if answers is not None else next(plan)
            except StopIteration as done:
                last: PromptValue = done.value
                return last
            answers = await gather_answers(self._answer, prompts, config)

    def _plan(self, document: dict[str, Any]) -> Plan:
        """Yield the prompts that can be answered at the same time, take their answers, return the last."""
        whole = self._fill(self._prompts.whole, document, document["text"])
        if self._fits(whole):
            return whole
        if self._strategy == "refine":
            return (yield from self._refine(document))
        return (yield from self._map_reduce(document))

    def _map_reduce(self, document: dict[str, Any]) -> Plan:
        text, count = document["text"], self._window.count_text
        room = self._room(self._fill(self._prompts.notes, document, ""))
        tokens = count(text)
        while True:
            parts = split_text(text, room, count)
            notes = yield [self._fill(self._prompts.notes, document, part) for part in parts]
            text = "\n\n".join(notes)
            last = self._fill(self._prompts.from_notes, document, text)
            if self._fits(last):
                return last
            before, tokens = tokens, count(text)
            if tokens > before * _SHRINKING:
                raise AnswerError(f"notes on {before} tokens take {tokens}: the model does not condense")

    def _refine(self, document: dict[str, Any]) -> Plan:
        count = self._window.count_text
        room = self._room(self._fill(self._prompts.refine, document, "", summary=""))
        first, *others = split_text(document["text"], room - room // _SUMMARY_SHARE, count)
        (summary,) = yield [self._fill(self._prompts.whole, document, first)]
        last = self._fill(self._prompts.whole, document, first)
        for index, part in enumerate(others):
            last = self._fill(self._prompts.refine, document, part, summary=summary)
            if not self._fits(last):
                raise AnswerError(f"the summary so far takes {count(summary)} tokens of {room}: too many")
            if index < len(others) - 1:
                (summary,) = yield [last]
        return last

    def _fill(
        self, prompt: ChatPromptTemplate, document: Mapping[str, Any], text: str, **more: str
    ) -> PromptValue:
        heading = document["heading"]
        if "summary" in more:
            more["summary_tag"] = choose_tag("summary", heading, text, more["summary"])
        tag = choose_tag("document", heading, text, *more.values())
        return prompt.format_prompt(tag=tag, heading=heading, text=text, **more)

    def _room(self, empty: PromptValue) -> int:
        room = self._window.max_tokens - self._window.count(empty.to_messages())
        if room < _MIN_TEXT_TOKENS:
            raise ValueError(
                f"max_input_tokens is {self._window.max_tokens}: with the instructions and the title, "
                f"that leaves {max(room, 0)} tokens for the text"
            )
        return room

    def _fits(self, prompt: PromptValue) -> bool:
        return self._window.fits(prompt.to_messages())


def bounded(config: RunnableConfig) -> RunnableConfig:
    """Return the config with a `max_concurrency`: its own, or 8."""
    return patch_config(config, max_concurrency=config.get("max_concurrency") or _MAX_PARALLEL_CALLS)


async def gather_answers(answer: Runnable[Any, str], inputs: list[Any], config: RunnableConfig) -> list[str]:
    """Answer inputs at the same time, within `max_concurrency`; the first error cancels the others.

    LangChain's `abatch` would let the others run on, and be paid for.
    """
    slots = asyncio.Semaphore(bounded(config)["max_concurrency"] or _MAX_PARALLEL_CALLS)

    async def one(value: Any) -> str:
        async with slots:
            return await answer.ainvoke(value, config)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(value)) for value in inputs]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
