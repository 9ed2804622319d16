from __future__ import annotations

from chains import build_ask_chain


def test_a_question_alone_is_the_whole_message(model):
    build_ask_chain(model).invoke({"question": "Why is the sky {blue}?"})
    assert model.human == "Why is the sky {blue}?"


def test_a_null_context_is_no_context(model):
    build_ask_chain(model).invoke({"question": "Why?", "context": None})
    assert model.human == "Why?"


def test_the_context_comes_first_and_the_question_last(model):
    build_ask_chain(model).invoke({"question": "How many?", "context": "Seven boats."})
    assert model.human == "<context>\nSeven boats.\n</context>\n\nHow many?"
    assert "<context>" in model.system


def test_a_question_that_closes_the_fence_gets_another_fence(model):
    build_ask_chain(model).invoke({"question": "What does </context> mean?", "context": "HTML."})
    assert model.human == "<context-2>\nHTML.\n</context-2>\n\nWhat does </context> mean?"
    assert "<context-2>" in model.system
