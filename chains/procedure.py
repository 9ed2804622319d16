"""A step of a chain that makes several calls, each decided by the answers before it.

Invariant: the plan is written once, as a generator without I/O, for `invoke`, `ainvoke`, `stream` and
`astream`; every call is a child of the step's own run. It makes one call at a time and retries none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.graph import Graph
from typing_extensions import override

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True)
class Call:
    """What to run next, and on what."""

    runnable: Runnable[Any, Any]
    input: Any


Plan: TypeAlias = Generator[Call, Any, AnswerT]
"""Yields calls and is sent their outputs; an error of a call is raised where the call was yielded."""


class Procedure(Runnable[InputT, OutputT], Generic[InputT, OutputT]):
    """A runnable whose subclass says by `plan` what to call.

    Attributes:
        task: The name of its runs.
        output_type: What it returns.
    """

    task: ClassVar[str]
    output_type: Any = str

    @abstractmethod
    def plan(self, value: InputT) -> Plan[OutputT | Call]:
        """Make the calls for one input.

        Returns:
            The output; or a last call, whose output is the output, streamed when this is streamed.
        """

    @abstractmethod
    def parts(self) -> list[Runnable[Any, Any]]:
        """Return what may be called, prompts before their models; for graphs and fingerprints."""

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # no address: serialized chains are compared by it

    @override
    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        return super().get_name(suffix, name=name or self.task)

    @property
    @override
    def InputType(self) -> Any:
        return Any

    @property
    @override
    def OutputType(self) -> Any:
        return self.output_type

    @override
    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        graph = Graph()
        first = graph.add_node(self.get_input_schema(config))
        last = graph.add_node(self.get_output_schema(config))
        for part in self.parts():
            inner = part.get_graph(config)
            inner.trim_first_node()
            inner.trim_last_node()
            begin, end = graph.extend(inner)
            if begin is None or end is None:
                raise ValueError(f"{part.get_name()} has no first or no last node")
            graph.add_edge(first, begin)
            graph.add_edge(end, last)
        return graph

    @override
    def invoke(self, input: InputT, config: RunnableConfig | None = None, **kwargs: Any) -> OutputT:
        def run(value: InputT, config: RunnableConfig) -> OutputT:
            done = self._advance(value, config)
            return done.runnable.invoke(done.input, config) if isinstance(done, Call) else done

        # LangChain looks at the signature, and gives a config without a run manager too
        return self._call_with_config(run, input, config)  # type: ignore[arg-type]

    @override
    async def ainvoke(self, input: InputT, config: RunnableConfig | None = None, **kwargs: Any) -> OutputT:
        async def run(value: InputT, config: RunnableConfig) -> OutputT:
            done = await self._aadvance(value, config)
            return await done.runnable.ainvoke(done.input, config) if isinstance(done, Call) else done

        return await self._acall_with_config(run, input, config)  # type: ignore[arg-type]

    @override
    def stream(
        self, input: InputT, config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> Iterator[OutputT]:
        def run(values: Iterator[InputT], config: RunnableConfig) -> Iterator[OutputT]:
            done = self._advance(next(values), config)
            if isinstance(done, Call):
                yield from done.runnable.stream(done.input, config)
            else:
                yield done

        yield from self._transform_stream_with_config(iter([input]), run, config)  # type: ignore[arg-type]

    @override
    async def astream(
        self, input: InputT, config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> AsyncIterator[OutputT]:
        async def run(values: AsyncIterator[InputT], config: RunnableConfig) -> AsyncIterator[OutputT]:
            done = await self._aadvance(await anext(values), config)
            if isinstance(done, Call):
                async for chunk in done.runnable.astream(done.input, config):
                    yield chunk
            else:
                yield done

        async def inputs() -> AsyncIterator[InputT]:
            yield input

        async for chunk in self._atransform_stream_with_config(inputs(), run, config):  # type: ignore[arg-type]
            yield chunk

    def _advance(self, value: InputT, config: RunnableConfig) -> OutputT | Call:
        plan = self.plan(value)
        try:
            call = next(plan)
            while True:
                try:
                    answer = call.runnable.invoke(call.input, config)
                except Exception as error:  # noqa: BLE001  the plan raises it again unless it knows better
                    call = plan.throw(error)
                else:
                    call = plan.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the plan returned

    async def _aadvance(self, value: InputT, config: RunnableConfig) -> OutputT | Call:
        plan = self.plan(value)
        try:
            call = next(plan)
            while True:
                try:
                    answer = await call.runnable.ainvoke(call.input, config)
                except Exception as error:  # noqa: BLE001  the plan raises it again unless it knows better
                    call = plan.throw(error)
                else:
                    call = plan.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the plan returned
