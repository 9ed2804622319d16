from __future__ import annotations

import json

import pytest

from chains import build_translate_chain


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"source_language": None, "glossary": None},
        {"source_language": "", "glossary": {}},
    ],
)
def test_optional_fields_may_be_missing_null_or_empty(row, model):
    build_translate_chain(model).invoke({"text": "Hello", "target_language": "French", **row})
    assert model.human == "<text>\nHello\n</text>"
    assert "from its own language into French." in model.system


def test_languages_are_named_in_the_order_and_placeholders_kept(model):
    model.is_echo = True
    build_translate_chain(model).invoke(
        {"text": "Hello {name}", "target_language": "pt-BR", "source_language": "English"}
    )
    assert "from English into pt-BR." in model.system
    assert "placeholders such as {name}" in model.system


def test_the_glossary_arrives_whole_in_its_own_block(model):
    glossary = {"light{house}": 'Leucht"turm"', "海": "Meer", "</glossary>": "</text>"}
    build_translate_chain(model).invoke(
        {"text": "The lighthouse.", "target_language": "German", "glossary": glossary}
    )
    opening, terms, closing, blank, *rest = model.human.split("\n")
    assert (opening, closing, blank) == ("<glossary-2>", "</glossary-2>", "")
    assert json.loads(terms) == glossary
    assert "海" in terms
    assert rest == ["<text-2>", "The lighthouse.", "</text-2>"]
    assert "<glossary-2>" in model.system
    assert "<text-2>" in model.system


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"target_language": " "}, "target_language"),
        ({"target_language": None}, "target_language"),
        ({"glossary": {"sea": ""}}, "glossary.sea"),
        ({"glossary": "sea=Meer"}, "glossary"),
        ({"source_language": 7}, "source_language"),
    ],
)
def test_bad_settings_are_refused_by_name(bad, where, model):
    with pytest.raises(ValueError, match=f"\n{where}\n"):
        build_translate_chain(model).invoke({"text": "sea", "target_language": "German", **bad})
    assert model.seen == []


def test_the_target_language_is_required(model):
    with pytest.raises(ValueError, match=r"target_language\n\s+Field required"):
        build_translate_chain(model).invoke({"text": "sea"})
