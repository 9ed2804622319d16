"""Translate part by part, check that each part kept what it must, and ask once for what it lost.

The translations stand in the order of the parts, with the white space that was between them. A part
with something to keep is handed on when it is whole and checked; any other streams as it comes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.graph import Graph
from typing_extensions import override

from chains.answer import AnswerError
from chains.condense import bounded, gather_answers
from chains.material import choose_tag
from chains.parts import StreamStrip, split_text, strip_ends
from chains.protected import find_lost, find_protected, has_protected, has_words
from chains.window import Window

Values = dict[str, Any]
Step = tuple[Runnable[Values, str], Values]


class LostTextError(AnswerError):
    """A translation that lost code, placeholders, links, tags or headings, also when it was asked again.

    Args:
        message: What is wrong with it; never its text.
        text: What the model wrote.
        lost: As the attribute.

    Attributes:
        lost: What is missing in the last translation, each once.
        llm_output: The last translation.
    """

    def __init__(self, message: str, *, text: str = "", lost: tuple[str, ...] = ()) -> None:
        super().__init__(message, text=text)
        self.lost = lost


class TranslatePart(Runnable[Values, str]):
    """Translates a text that fits into one call, and has the answer repaired once."""

    name = "translate_part"

    def __init__(self, translate: Runnable[Values, str], repair: Runnable[Values, str]) -> None:
        self._translate = translate
        self._repair = repair

    @override
    def invoke(self, input: Values, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        plan = self._plan(input)
        step = next(plan)
        try:
            while True:
                step = plan.send(step[0].invoke(step[1], config))
        except StopIteration as done:
            return str(done.value)

    @override
    async def ainvoke(self, input: Values, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        plan = self._plan(input)
        step = next(plan)
        while True:
            answer = await step[0].ainvoke(step[1], config)
            try:
                step = plan.send(answer)
            except StopIteration as done:
                return str(done.value)

    @override
    def stream(self, input: Values, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[str]:
        if has_protected(input["text"]):
            yield self.invoke(input, config)
        else:
            yield from self._translate.stream(input, config)

    @override
    async def astream(
        self, input: Values, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[str]:
        if has_protected(input["text"]):
            yield await self.ainvoke(input, config)
        else:
            async for chunk in self._translate.astream(input, config):
                yield chunk

    def _plan(self, values: Values) -> Generator[Step, str, str]:
        first = yield self._translate, values
        lost = find_lost(values["text"], first)
        if not lost:
            return first
        shown = json.dumps(lost, ensure_ascii=False)
        told = {"translation": first, "lost": shown, "lost_tag": choose_tag("lost", shown)}
        second = yield self._repair, {**values, **told}
        lost = find_lost(values["text"], second)
        if lost:
            raise LostTextError(
                f"the translation lost {len(lost)} pieces of code, placeholders, links, tags or headings",
                text=second,
                lost=tuple(lost),
            )
        return second


class Translation(Runnable[Values, str]):
    """Translates a text of any length. Safe to share between threads and tasks.

    Args:
        model: What answers a prompt with a text.
        prompt: Takes the values of a text.
        repair: Takes them too, and `translation`, `lost` and `lost_tag`.
        window: What the text of one call may have; None sends any text whole.
    """

    name = "translation"

    def __init__(
        self,
        model: Runnable[Any, str],
        prompt: ChatPromptTemplate,
        repair: ChatPromptTemplate,
        window: Window | None,
    ) -> None:
        self._prompts = (prompt, repair)
        self._part = TranslatePart(prompt | model, repair | model)
        self._window = window

    @override
    def __repr__(self) -> str:
        most = self._window.max_tokens if self._window else None
        return f"{type(self).__name__}({most}, {self._prompts})"

    @property
    @override
    def InputType(self) -> type[Values]:
        return dict[str, Any]

    @property
    @override
    def OutputType(self) -> type[str]:
        return str

    @override
    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        graph = Graph()
        first = graph.add_node(self.get_input_schema(config))
        last = graph.add_node(self.get_output_schema(config))
        translate, repair = (graph.add_node(prompt) for prompt in self._prompts)
        end = graph.add_node(self)
        graph.add_edge(first, translate)
        graph.add_edge(translate, end)
        graph.add_edge(translate, repair, "something is lost", conditional=True)
        graph.add_edge(repair, end)
        graph.add_edge(end, last)
        return graph

    @override
    def invoke(self, input: Values, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        # its type lists no function of input and config, which it takes all the same
        return self._call_with_config(self._run, input, config)  # type: ignore[arg-type]

    @override
    async def ainvoke(self, input: Values, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        return await self._acall_with_config(self._arun, input, config)  # type: ignore[arg-type]

    @override
    def stream(self, input: Values, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[str]:
        yield from self._transform_stream_with_config(iter([input]), self._stream, config)  # type: ignore[arg-type]

    @override
    async def astream(
        self, input: Values, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[str]:
        async def only() -> AsyncIterator[Values]:
            yield input

        async for chunk in self._atransform_stream_with_config(only(), self._astream, config):  # type: ignore[arg-type]
            yield chunk

    def _run(self, values: Values, config: RunnableConfig) -> str:
        parts = self._split(values)
        wanted = [part.values for part in parts if part.values is not None]
        return _join(parts, self._part.batch(wanted, bounded(config)))

    async def _arun(self, values: Values, config: RunnableConfig) -> str:
        parts = self._split(values)
        wanted = [part.values for part in parts if part.values is not None]
        return _join(parts, await gather_answers(self._part, wanted, config))

    def _stream(self, inputs: Iterator[Values], config: RunnableConfig) -> Iterator[str]:
        for part in (part for values in inputs for part in self._split(values)):
            yield part.before
            if part.values is not None:
                strip = StreamStrip(is_off=part.is_whole)
                for chunk in self._part.stream(part.values, config):
                    yield strip(chunk)
            yield part.after

    async def _astream(self, inputs: AsyncIterator[Values], config: RunnableConfig) -> AsyncIterator[str]:
        async for values in inputs:
            for part in self._split(values):
                yield part.before
                if part.values is not None:
                    strip = StreamStrip(is_off=part.is_whole)
                    async for chunk in self._part.astream(part.values, config):
                        yield strip(chunk)
                yield part.after

    def _split(self, values: Values) -> list[_Part]:
        text, window = values["text"], self._window
        if window is None or window.fits_text(text):
            return [_Part(values, is_whole=True)]
        texts = split_text(text, window.max_tokens, window.count_text, whole_spans=find_protected(text))
        return [_Part({**values, "text": each}) for each in texts]


class _Part:
    """A text to translate, and the white space around it; `values` is None where there is no word in it."""

    def __init__(self, values: Values, *, is_whole: bool = False) -> None:
        self.is_whole = is_whole
        self.values: Values | None = values
        self.before = self.after = ""
        if not is_whole:
            self.before, core, self.after = strip_ends(values["text"])
            self.values = {**values, "text": core}
            if not has_words(core):
                self.before, self.after, self.values = values["text"], "", None


def _join(parts: list[_Part], answers: list[str]) -> str:
    rest = iter(answers)
    pieces = []
    for part in parts:
        answer = next(rest) if part.values is not None else ""
        pieces += [part.before, answer if part.is_whole else answer.strip(), part.after]
    return "".join(pieces)
