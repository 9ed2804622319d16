"""Count what calls use: a `TokenCounter` counts where it is attached.

Models of this package show it each attempt's record; of any other chat model it reads what LangChain's
callbacks tell. One run is counted once, however many ways lead to a counter. Prices nothing.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from lc_service.accounting.attribution import own_metadata, own_tags
from lc_service.accounting.failure import may_be_billed, paid_usage
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty, MetadataValue
from lc_service.accounting.reported import model_name, read_result
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_report import UsageReport

_UNKNOWN_MODEL = "unknown"


@dataclass(slots=True)
class _Run:
    """A run that has begun: whose it is, and whether its attempts were shown."""

    tags: tuple[str, ...] = ()
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    is_shown: bool = False


class TokenCounter(BaseCallbackHandler):
    """Count the tokens of every model call that this handler is told of.

    Attach it to a call (`config={"callbacks": [counter]}`), a chain (`with_config`), a model (`callbacks=`).
    Of `ReliableChatOpenAI` and `ReliableOpenAIEmbeddings` it counts every attempt, also those that were cut
    off, cancelled, abandoned or retried. Of any other chat model it counts calls: plain, streamed and
    batched, tools, structured output, several choices (`n`). An answer from LangChain's cache counts as a
    call without tokens. Thread-safe, and safe in any event loops.

    Attributes:
        usage: The `UsageReport` of all it was told of; live.

    Example:
        >>> counter = TokenCounter()
        >>> counter.update({"prompt_tokens": 12, "completion_tokens": 3})
        >>> counter.get_stats()
        {'total_tokens': 15, 'prompt_tokens': 12, 'completion_tokens': 3}
    """

    run_inline = True  # in async runs a handler is otherwise sent through a thread: 100 µs a call
    ignore_chain = ignore_agent = ignore_retriever = ignore_custom_event = True

    def __init__(self) -> None:
        self.usage: UsageReport = UsageReport()
        self._runs: dict[UUID, _Run] = {}
        # The same handler, or an inner tracker and its outer one, can be told twice of one run's end, one
        # right after the other: the last few ends are enough to know.
        self._ended: dict[UUID, None] = {}
        # A model's error can be told again as the reason why the chain around it is retried.
        self._counted_errors: weakref.WeakSet[BaseException] = weakref.WeakSet()
        self._lock = threading.RLock()

    def update(self, usage: object) -> None:
        """Add the usage of a call that was made elsewhere.

        Args:
            usage: A mapping or an object with `prompt_tokens` and `completion_tokens`, or `input_tokens` and
                `output_tokens`; or a `TokenUsage`.

        Raises:
            TypeError: It has none of these.
        """
        read = usage if isinstance(usage, TokenUsage) else TokenUsage.read(usage)
        self.usage.add(AttemptRecord(run_id=uuid4(), model=_UNKNOWN_MODEL, usage=read))

    def get_stats(self) -> dict[str, int]:
        """Return `total_tokens`, `prompt_tokens` and `completion_tokens` so far."""
        total = self.usage.total
        return {
            "total_tokens": total.total_tokens,
            "prompt_tokens": total.input_tokens,
            "completion_tokens": total.output_tokens,
        }

    def on_call(self, run_id: UUID) -> None:
        """Take note that a model of this package is going to show each attempt of this run.

        Args:
            run_id: LangChain's run of the call.
        """
        with self._lock:
            self._open(run_id).is_shown = True

    def on_attempt(self, record: AttemptRecord) -> None:
        """Count an attempt; a model of this package shows it here, and its run's end is then no news.

        Args:
            record: The attempt, which has ended.
        """
        self.usage.add(record)

    def on_chat_model_start(self, *_: Any, run_id: UUID, **kwargs: Any) -> None:
        """Note whose run it is."""
        self._begin(run_id, kwargs)

    def on_llm_start(self, *_: Any, run_id: UUID, **kwargs: Any) -> None:
        """Note whose run it is."""
        self._begin(run_id, kwargs)

    def _begin(self, run_id: UUID, about: Mapping[str, Any]) -> None:
        with self._lock:
            run = self._open(run_id)
            run.tags, run.metadata = own_tags(about.get("tags")), own_metadata(about.get("metadata"))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Count an answer of a model that shows no records, or of LangChain's cache."""
        run = self._close(run_id)
        if run is None or run.is_shown:
            return
        told = read_result(response.llm_output, [each for some in response.generations for each in some])
        model = told.model or _UNKNOWN_MODEL
        if told.is_cached:
            self.usage.add_cached(model=model, tags=run.tags, metadata=run.metadata)
            return
        self.usage.add(
            AttemptRecord(
                run_id=run_id,
                model=model,
                response_model=told.model,
                certainty=Certainty.UNKNOWN if told.usage is None else Certainty.MEASURED,
                usage=told.usage or TokenUsage(),
                service_tier=told.service_tier,
                tags=run.tags,
                metadata=run.metadata,
            )
        )

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Count a call, of a model that shows no records, that failed and was, or may have been, paid for."""
        run = self._close(run_id)
        usage = paid_usage(error)
        if run is None or run.is_shown or (usage is None and not may_be_billed(error, is_sent=False)):
            return
        with self._lock, contextlib.suppress(TypeError):  # a built-in exception takes no weak reference
            if error in self._counted_errors:
                return
            self._counted_errors.add(error)
        partial = getattr(error, "partial", None)
        self.usage.add(
            AttemptRecord(
                run_id=run_id,
                model=model_name(getattr(partial, "response_metadata", {})) or _UNKNOWN_MODEL,
                status=AttemptStatus.FAILED if isinstance(error, Exception) else AttemptStatus.CANCELLED,
                certainty=Certainty.UNKNOWN if usage is None else Certainty.MEASURED,
                usage=usage or TokenUsage(),
                tags=run.tags,
                metadata=run.metadata,
            )
        )

    def _open(self, run_id: UUID) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            run = self._runs[run_id] = _Run()
            # LangChain tells no end of a cancelled run
            if len(self._runs) > _MAX_RUNS:
                del self._runs[next(iter(self._runs))]
        return run

    def _close(self, run_id: UUID) -> _Run | None:
        """Return a run that ends, or None where it has ended before."""
        with self._lock:
            if run_id in self._ended:
                return None
            self._ended[run_id] = None
            if len(self._ended) > _REMEMBERED_RUNS:
                del self._ended[next(iter(self._ended))]
            return self._runs.pop(run_id, None) or _Run()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what was counted; the copy counts on by itself, in another process."""
        return {"usage": self.usage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.usage = state["usage"]


_MAX_RUNS = 65_536
_REMEMBERED_RUNS = 256
