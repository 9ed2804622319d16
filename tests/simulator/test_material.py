from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.data import load_documents
from lc_service.simulator.material import Material


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One is here. Two is there! Is three?", 3),
        ("Der Hund bellt. Die Katze schläft.", 2),
        ("¿Dónde está? Aquí está.", 2),
        ("今天天气很好。我们去公园吧\uff01好吗\uff1f", 3),
        ("本を読む。音楽を聴く。", 2),
        ("أين الكتاب؟ الكتاب هنا.", 2),
        ("यह किताब है। वह कलम है॥ क्या यह घर है?", 3),
        ("यह किताब है।वह कलम है।", 2),
        ("उसने कहा, “यह किताब है।” फिर वह गया।", 1),
        ("یہ کتاب ہے\u06d4 وہ قلم ہے\u06d4", 2),
        ("Version 1.5 is out. Use it.", 2),
        ("", 0),
    ],
)
def test_sentences_of_many_languages(text, count):
    assert len(Material(text).sentences) == count


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("किताब पर किताब है", ["किताब"]),
        ("الكِتَابُ", ["الكِتَابُ"]),
        ("ที่นี่ มีหนังสือ", ["มีหนังสือ", "ที่นี่"]),
        ("क्\u200dषेत्र", ["क्\u200dषेत्र"]),
        ("cafe\u0301s, naïve, gpt4, snake_case", ["cafe\u0301s", "naïve", "snake", "case"]),
    ],
)
def test_words_keep_their_marks(text, words):
    assert set(Material(text).keywords) == set(words)


def test_a_hindi_summary_is_a_sentence_of_the_document():
    for document in load_documents():
        if document.language == "hi":
            sentences = [f"{part.strip()}।" for part in document.text.split("।") if part.strip()]
            assert Material(document.text).sentences == sentences
            summary = Material(f"<document>\n{document.text}\n</document>").summary()
            assert all(f"{part.strip()}।" in sentences for part in summary.split("।") if part.strip())
            assert 0 < len(summary) < len(document.text)


@pytest.mark.parametrize("tag", ["<document>", "</document-2>", '<doc id="1" a>', "<br/><br />", "<a> </a>"])
def test_a_line_of_tags_is_no_sentence(tag):
    assert Material(f"{tag}\nOne is here.\n{tag}").sentences == ["One is here."]
    assert "<" not in Material(f"{tag}\n" * 30).summary()


@pytest.mark.parametrize("line", ["<https://example.org>", "a < b and c > d", "<b>Bold</b>", "< 3"])
def test_a_line_with_more_than_tags_is_a_sentence(line):
    assert Material(line).sentences == [line]


def test_a_line_that_only_announces_the_text_is_left_out(long_text):
    summary = Material(f"Summarise the following text about the library:\n{long_text}").summary()
    assert summary in long_text
    assert "library" in summary


def test_variants_choose_other_sentences(long_text):
    material = Material(long_text)
    assert material.summary(0) != material.summary(1)
    assert material.summary(0) == material.summary(len(material.sentences))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("What is the weather in San Francisco, CA?", ["San Francisco, CA"]),
        ("Using the tool, generate a Pirate greeting.", ["Pirate"]),
        ("Create a customer named '你好啊集团' (Hello Group)", ["你好啊集团"]),
        ("Tell me about cats", ["about", "cats"]),
        ("Hello!", ["Hello"]),
    ],
)
def test_names(text, names):
    assert Material(text).names == names


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("magic_function(3)", [3]), ("1 + 2.5 and -4", [1, 2.5, -4]), ("gpt4 v2", []), ("", [])],
)
def test_numbers(text, numbers):
    assert Material(text).numbers == numbers


@given(st.text())
def test_any_text_is_material(text):
    material = Material(text)
    material.summary(3)
    assert all(material.names)
    assert all(isinstance(number, float) for number in material.numbers)
