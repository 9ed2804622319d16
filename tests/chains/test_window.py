from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from pydantic import Field

from chains.window import Window, find_profile, find_window


class Counting(FakeListChatModel):
    """Counts a token for each message, and ten for each tool."""

    responses: list[str] = Field(default=["a"])
    counted: list[int] = Field(default_factory=list)

    def get_num_tokens_from_messages(self, messages: list[Any], tools: Any = None) -> int:
        self.counted.append(len(messages))
        return len(messages) + 10 * len(tools or [])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)


@tool
def depth(place: str) -> str:
    """Tell the depth of the water."""
    return place


def sized(max_input_tokens: int | None) -> FakeListChatModel:
    profile = None if max_input_tokens is None else {"max_input_tokens": max_input_tokens}
    return FakeListChatModel(responses=["a"], profile=profile)


def dressed(model: BaseChatModel) -> list[Any]:
    return [
        model,
        model.bind(stop=["x"]),
        model.with_config(tags=["a"]).bind(stop=["x"]),
        model.with_retry(),
        model.configurable_alternatives(ConfigurableField("model"), other=sized(5)),
    ]


@pytest.mark.parametrize("model", dressed(sized(1000)), ids=lambda model: type(model).__name__)
def test_the_window_is_nine_tenths_of_the_profiles(model):
    assert find_window(model).max_tokens == 900


@pytest.mark.parametrize("order", [(1000, 200, None), (200, 1000, 300)])
def test_of_fallbacks_the_smallest_window_counts(order):
    first, *others = map(sized, order)
    model = first.with_fallbacks([others[0].bind(stop=["x"]), *others[1:]])
    assert find_window(model).max_tokens == 180
    assert find_profile(model.bind(stop=["x"]), "max_input_tokens") == 200


@pytest.mark.parametrize(
    "model", [sized(None), RunnableLambda(str), sized(None).with_fallbacks([sized(None)])]
)
def test_no_profile_is_no_window(model):
    assert find_window(model) is None
    assert find_profile(model, "max_output_tokens") is None


def test_what_the_caller_says_is_taken_as_it_is():
    assert find_window(sized(1000), 5000).max_tokens == 5000
    with pytest.raises(ValueError, match="max_input_tokens must be at least 1, not 0"):
        find_window(sized(1000), 0)


@pytest.mark.parametrize("model", dressed(Counting()), ids=lambda model: type(model).__name__)
def test_the_model_counts(model):
    window = find_window(model, 3)
    messages = [HumanMessage("x" * 1000)] * 3
    assert window.count(messages) == 3
    assert window.fits(messages)
    assert not window.fits(messages * 2)


def test_bound_tools_are_counted():
    window = find_window(Counting().bind_tools([depth]), 11)
    assert window.count([HumanMessage("a")]) == 11
    assert window.fits([HumanMessage("a")])
    assert not window.fits([HumanMessage("a")] * 2)
    assert window.count_text("a") == 0
    plain, tooled = (find_window(m, 9) for m in (sized(None), sized(None).bind(tools=[{"name": "x" * 300}])))
    assert tooled.count([HumanMessage("a")]) > plain.count([HumanMessage("a")]) + 100


def test_what_is_far_too_short_is_not_counted():
    model = Counting()
    assert find_window(model, 10_000).fits([SystemMessage("a"), HumanMessage("x" * 9_000)])
    assert find_window(model, 10_000).fits_text("x" * 10_000)
    assert model.counted == []
    assert find_window(model, 10_000).fits([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])
    assert model.counted == [1]


@pytest.mark.parametrize(
    "text",
    [
        "The tide turns twice a day, and the harbour with it. ",
        "海边有一座灯塔。夜里它照亮船只的路。",
        "المنارة تضيء البحر ",
        "🚢⚓",
    ],
)
def test_an_estimate_is_not_below_a_true_count(text, server):
    estimate = Window(1, FakeListChatModel(responses=[])).count([HumanMessage(text * 20)])
    assert estimate >= server.model().get_num_tokens_from_messages([HumanMessage(text * 20)]) - 10


def test_what_stands_in_for_a_model_is_estimated():
    stand_in = RunnableLambda(lambda _: AIMessage("a"))
    window = find_window(stand_in, 100)
    assert window.count([HumanMessage("x" * 300)]) == find_window(sized(None), 100).count(
        [HumanMessage("x" * 300)]
    )
    assert window.fits([HumanMessage("x" * 60)])
    assert not window.fits([HumanMessage("x" * 600)])


def test_tool_calls_and_blocks_are_estimated_too():
    window = Window(1, sized(None))
    call = AIMessage("", tool_calls=[{"name": "depth", "args": {"place": "x" * 300}, "id": "1"}])
    assert window.count([call]) > window.count([AIMessage("")]) + 100
    assert window.count([HumanMessage([{"type": "text", "text": "x" * 300}])]) > 100


def test_the_windows_figures_are_shown_and_the_model_is_not():
    assert repr(Window(7, Counting())) == "Window(max_tokens=7)"
