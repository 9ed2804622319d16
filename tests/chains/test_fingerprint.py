"""A fingerprint follows the words of a prompt and nothing else, and a chain's runs carry it."""

from __future__ import annotations

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.prompts import ChatMessagePromptTemplate, ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from typing_extensions import TypedDict

import chains
from chains import build_ask_chain, build_summarize_chain, prompt_fingerprint
from chains.ask import ASK_PROMPT
from chains.fingerprint import as_task

MESSAGES = [("system", "Be brief."), ("placeholder", "{history}"), ("human", "Name {count} islands.")]


def chat(*messages: Any) -> ChatPromptTemplate:
    return ChatPromptTemplate.from_messages(messages)


def test_the_example_runs():
    tests = doctest.DocTestFinder().find(import_module("chains.fingerprint"))
    runner = doctest.DocTestRunner(verbose=False)
    assert sum(runner.run(test).attempted for test in tests) == 2
    assert runner.failures == 0


def test_equal_words_have_equal_fingerprints():
    assert prompt_fingerprint(chat(*MESSAGES)) == prompt_fingerprint(chat(*MESSAGES))


DEVELOPER = ChatMessagePromptTemplate.from_template("Name {count} islands.", role="developer")


@pytest.mark.parametrize(
    "other",
    [
        chat(MESSAGES[0], ("human", "Name {count} islands.")),
        chat(MESSAGES[0], MESSAGES[1], ("human", "Name {number} islands.")),
        chat(MESSAGES[0], MESSAGES[1], ("human", "Name {count} islands. ")),
        chat(MESSAGES[0], MESSAGES[1], ("ai", "Name {count} islands.")),
        chat(MESSAGES[0], MESSAGES[1], DEVELOPER),
        chat(MESSAGES[0], ("placeholder", "{past}"), MESSAGES[2]),
        chat(MESSAGES[1], MESSAGES[0], MESSAGES[2]),
        chat(*MESSAGES).partial(count="7"),
        chat(*MESSAGES).partial(count="8"),
        chat(*MESSAGES).partial(count=lambda: "8"),
        chat(SystemMessage("Be brief."), *MESSAGES[1:]),
        ChatPromptTemplate.from_messages(MESSAGES, template_format="mustache"),
        PromptTemplate.from_template("Name {count} islands."),
    ],
    ids=range(13),
)
def test_other_words_have_another(other):
    assert prompt_fingerprint(other) != prompt_fingerprint(chat(*MESSAGES))


def test_partial_values_are_told_apart():
    seven, eight = (chat(*MESSAGES).partial(count=count) for count in "78")
    assert prompt_fingerprint(seven) != prompt_fingerprint(eight)


def test_another_process_agrees():
    code = "from chains import prompt_fingerprint; from chains.ask import ASK_PROMPT as prompt\n"
    code += "print(prompt_fingerprint(prompt))"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        cwd=Path(chains.__file__).parents[1],
        env={"PYTHONHASHSEED": "77"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == prompt_fingerprint(ASK_PROMPT)


def test_a_chain_of_one_prompt_has_the_prompts_fingerprint_whatever_the_model(model):
    assert prompt_fingerprint(build_ask_chain(model)) == prompt_fingerprint(ASK_PROMPT)
    fake = FakeListChatModel(responses=["a"])
    assert prompt_fingerprint(build_ask_chain(fake)) == prompt_fingerprint(ASK_PROMPT)


def test_what_a_chain_is_told_to_ask_for_counts(model):
    german = build_summarize_chain(model, language="German")
    assert prompt_fingerprint(german) != prompt_fingerprint(build_summarize_chain(model))


def test_several_prompts_count_in_any_order():
    one, two = chat(("human", "One {x}")), chat(("human", "Two {x}"))
    both = prompt_fingerprint(RunnableParallel(a=one, b=two))
    assert both == prompt_fingerprint(RunnableParallel(a=two, b=one))
    assert both not in {prompt_fingerprint(one), prompt_fingerprint(two)}


def test_a_literal_message_is_read_as_it_is():
    assert prompt_fingerprint(chat(HumanMessage("{count}"))) != prompt_fingerprint(chat(("human", "{count}")))


def test_no_prompt_is_an_error():
    with pytest.raises(ValueError, match="no prompt in"):
        prompt_fingerprint(RunnableLambda(str))


@pytest.mark.parametrize(
    "content",
    [[{"type": "image_url", "image_url": {"url": "{picture}"}}], [{"type": "text", "text": object()}]],
)
def test_what_is_no_text_is_an_error(content):
    prompt = chat(("human", content)) if "image_url" in content[0] else chat(HumanMessage("a"))
    if "text" in content[0]:
        prompt.messages[0].content = content
    with pytest.raises(TypeError, match="cannot tell the words of"):
        prompt_fingerprint(prompt)


class Row(TypedDict):
    count: str


class Stamps(BaseCallbackHandler):
    def __init__(self) -> None:
        self.of_models: list[tuple[str, str]] = []

    def on_chat_model_start(self, *args: Any, metadata: dict[str, Any], **kwargs: Any) -> None:
        self.of_models.append((metadata["prompt_version"], metadata["prompt_fingerprint"]))


@pytest.mark.parametrize(
    "configure", [lambda chain: chain, lambda chain: chain.with_config(metadata={"a": 1})]
)
async def test_a_chain_within_a_chain_keeps_its_own_stamp(configure, model):
    prompt = chat(("human", "Name {count} islands."))
    inner = configure(as_task(prompt | model, "inner", version="7", input_type=Row))
    own = chat(("human", "How many, {count}?"))
    outer = as_task(own | model | (lambda _: {"count": "3"}) | inner, "outer", version="1", input_type=Row)
    want = [("1", prompt_fingerprint(outer)), ("7", prompt_fingerprint(prompt))]
    stamps = Stamps()
    outer.invoke({"count": "2"}, {"callbacks": [stamps]})
    assert stamps.of_models == want
    await outer.ainvoke({"count": "2"}, {"callbacks": [stamps]})
    assert stamps.of_models == want * 2
