"""Read the text of an answer, and refuse one that is not whole.

What a chain returns is all that the model had to say: an answer cut at its length, held back by a
filter, or empty raises. Whether the text is any good is not judged here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from typing_extensions import override

from chains.material import is_blank

_CUT = {
    "content_filter": "was held back by the provider's content filter",
    "incomplete": "ended before it was whole",
    "length": "was cut at its greatest length: allow the model more output tokens",
    "max_tokens": "was cut at its greatest length: allow the model more output tokens",
}


class AnswerError(OutputParserException):
    """An answer that cannot be used, though the model was paid for it.

    Args:
        message: What is wrong with it; never its text.
        text: What the model wrote, in so far as it is known.

    Attributes:
        llm_output: The `text`.
    """

    def __init__(self, message: str, *, text: str = "") -> None:
        super().__init__(message, llm_output=text)
        self.args = (message,)  # LangChain's own adds a link with every copy that is unpickled


class WholeText(StrOutputParser):
    """The answer as a string; a stream of it raises at its end, when its text has been handed on."""

    @override
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> str:
        text = super().parse_result(result, partial=partial)
        _refuse_cut(result[0], text)
        if not partial:
            _refuse_empty(text)
        return text

    @override
    async def aparse_result(self, result: list[Generation], *, partial: bool = False) -> str:
        return self.parse_result(result, partial=partial)  # the inherited one hops to a thread

    @override
    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[str]:
        heard = _Heard()
        for chunk in input:
            yield heard.text_of(chunk)
        heard.refuse()

    @override
    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[str]:
        heard = _Heard()
        async for chunk in input:
            yield heard.text_of(chunk)
        heard.refuse()


class _Heard:
    """What has come of a stream; it is judged at the end, for the usage comes after the finish_reason."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._ends: list[Generation] = []

    def text_of(self, chunk: str | BaseMessage) -> str:
        generation = _generation(chunk)
        text = StrOutputParser().parse_result([generation], partial=True)
        self._texts.append(text)
        if isinstance(chunk, BaseMessage) and chunk.response_metadata:
            self._ends.append(generation)
        return text

    def refuse(self) -> None:
        """Raise if the stream was not a whole answer."""
        text = "".join(self._texts)
        for generation in self._ends:
            _refuse_cut(generation, text)
        _refuse_empty(text)


def _generation(chunk: str | BaseMessage) -> Generation:
    return ChatGeneration(message=chunk) if isinstance(chunk, BaseMessage) else Generation(text=chunk)


def _refuse_cut(generation: Generation, text: str) -> None:
    if not isinstance(generation, ChatGeneration):
        return
    told = generation.message.response_metadata
    for key in ("finish_reason", "stop_reason", "status"):
        if (reason := _CUT.get(str(told.get(key)).lower())) is not None:
            raise AnswerError(f"the answer {reason}", text=text)


def _refuse_empty(text: str) -> None:
    if is_blank(text):
        raise AnswerError(
            "the answer has no text: the model refused, called a tool, or said nothing", text=text
        )
