"""LangChain's LLM cache: what a hit looks like, and what its key is made of."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_openai import ChatOpenAI
from pydantic import Field

HELLO = "Hello there"


class Ends(BaseCallbackHandler):
    """Notes what each end says at that moment: the cache changes it afterwards."""

    run_inline = True

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []

    def on_llm_end(self, response: Any, **_: Any) -> None:
        usage = response.generations[0][0].message.usage_metadata
        self.seen.append((response.llm_output is None, "total_cost" in usage))


async def test_a_cache_hit_has_no_llm_output_and_a_total_cost_of_zero(simulate, chat):
    """A hit's `llm_output` is None and its usage has `total_cost: 0`; an answer from the server has neither.

    Ours: `read_result` in `accounting/reported.py` tells a hit by the two.
    """
    sim, ends = simulate(), Ends()
    model = chat(sim, cache=InMemoryCache())
    config: Any = {"callbacks": [ends]}
    message = model.invoke(HELLO, config)
    hit = model.invoke(HELLO, config)
    await model.ainvoke(HELLO, config)
    assert len(sim.requests) == 1
    assert ends.seen == [(False, False), (True, True), (True, True)]
    assert hit.usage_metadata == {**message.usage_metadata, "total_cost": 0}
    assert "total_cost" not in message.usage_metadata


def test_a_hit_marks_the_first_answers_generation_too(simulate, chat, recorder):
    """InMemoryCache keeps the very generation of the first answer, and a hit replaces the message in it.

    So a handler that looks at a kept LLMResult later finds `total_cost: 0` in an answer that was paid for.

    Ours: `TokenCounter.on_llm_end` in `accounting/token_counter.py` reads at once, and keeps nothing.
    """
    model = chat(simulate(), cache=InMemoryCache())
    model.invoke(HELLO, {"callbacks": [recorder]})
    first = recorder.only("end").response.generations[0][0]
    assert "total_cost" not in first.message.usage_metadata
    model.invoke(HELLO)
    assert first.message.usage_metadata["total_cost"] == 0


def test_langchains_own_counter_counts_hits_as_spent(simulate, chat):
    """UsageMetadataCallbackHandler counts a hit like an answer.

    Ours: TokenCounter counts zero tokens; README compares the two.
    """
    sim, counter = simulate(), UsageMetadataCallbackHandler()
    model = chat(sim, cache=InMemoryCache())
    for _ in range(2):
        model.invoke(HELLO, {"callbacks": [counter]})
    (counted,) = counter.usage_metadata.values()
    assert counted["total_tokens"] == 2 * sim.bill.total.total_tokens


async def test_streams_go_past_the_cache(simulate, chat):
    """`stream` and `astream` neither read nor fill the cache (langchain#35308).

    Ours: README says so; a stream is always a paid call to TokenCounter.
    """
    sim = simulate()
    model = chat(sim, cache=InMemoryCache())
    model.invoke(HELLO)
    list(model.stream(HELLO))
    async for _ in model.astream(HELLO):
        pass
    assert len(sim.requests) == 3


@pytest.mark.parametrize("change", ["copied", "assigned"])
def test_the_cache_key_is_stale_after_a_change(simulate, chat, change):
    """The key is made of `_serialized`, a cached property that copies along: a change finds old answers.

    Ours: `model_copy` in `models/chat.py` takes `_serialized` out of the copy. An assignment stays stale.
    """
    sim = simulate()
    model = chat(sim, cache=InMemoryCache(), temperature=0.0)
    model.invoke(HELLO)
    if change == "copied":
        model = model.model_copy(update={"temperature": 1.5})
    else:
        model.temperature = 1.5
    model.invoke(HELLO)
    assert len(sim.requests) == 1
    del model.__dict__["_serialized"]
    model.invoke(HELLO)
    assert len(sim.requests) == 2


class Renamed(ChatOpenAI):
    """A subclass that is dumped as ChatOpenAI in all but an excluded field."""

    extra: int = Field(default=0, exclude=True)

    @classmethod
    def lc_id(cls) -> list[str]:
        return [*cls.get_lc_namespace(), "ChatOpenAI"]

    def to_json(self) -> Any:
        return super().to_json() | {"name": "ChatOpenAI"}


def test_what_is_dumped_alike_shares_its_cached_answers(simulate, chat):
    """The key is the prompt and what `dumpd` says of the model: id, name, fields that are not excluded.

    Ours: `lc_id`, `to_json` and `Field(exclude=True)` in `models/chat.py` find ChatOpenAI's cached answers.
    """
    sim, cache = simulate(), InMemoryCache()
    chat(sim, cache=cache).invoke(HELLO)
    assert chat(sim, Renamed, cache=cache, extra=3).invoke(HELLO).text
    assert len(sim.requests) == 1
    chat(sim, Renamed, cache=cache, max_retries=1).invoke(HELLO)
    assert len(sim.requests) == 2
