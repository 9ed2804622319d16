from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections import Counter
from importlib import resources

import pytest

from lc_service.data import Document, load_documents

DOCUMENTS = load_documents()
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.id)
UNSPACED = {"ja", "zh"}


def test_there_are_enough_documents_in_enough_languages():
    languages = Counter(document.language for document in DOCUMENTS)
    assert len(DOCUMENTS) >= 64
    assert len(languages) >= 6
    assert languages["en"] >= 30


@pytest.mark.parametrize("field", ["id", "title", "text"])
def test_no_two_documents_share(field):
    values = Counter(getattr(document, field) for document in DOCUMENTS)
    assert [value for value, count in values.items() if count > 1] == []


@EACH
def test_an_id_is_kebab_case_and_starts_with_the_language(document):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", document.id)
    assert document.id.split("-")[0] == document.language


@EACH
def test_a_document_is_of_sane_length(document):
    if document.language in UNSPACED:
        assert 120 <= len(document.text) <= 320
    else:
        assert 60 <= len(document.text.split()) <= 160
    assert 0 < len(document.title) <= 60


@EACH
def test_text_is_tidy_and_normalized(document):
    for value in dataclasses.astuple(document):
        assert unicodedata.is_normalized("NFC", value)
        assert value == value.strip()
    assert "\n" not in document.title
    stray = {char for char in document.text if unicodedata.category(char) in {"Cc", "Cn", "Co", "Cs"}}
    assert stray <= {"\n"}
    assert "\ufffd" not in document.text


@pytest.mark.parametrize(
    "tricky", ["{", "}}", "\\", '"', "'", "\n\n", "</document>", "👩\u200d🚀", "example.org"]
)
def test_tricky_characters_are_represented(tricky):
    assert any(tricky in document.text for document in DOCUMENTS)


def test_the_file_is_one_plain_json_object_a_line():
    raw = resources.files("lc_service.data").joinpath("documents.jsonl").read_bytes()
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    assert not raw.startswith(b"\xef\xbb\xbf")
    rows = [json.loads(line) for line in raw.decode("utf-8").removesuffix("\n").split("\n")]
    assert [Document(**row) for row in rows] == DOCUMENTS
    assert all(list(row) == ["id", "language", "title", "text"] for row in rows)


def test_a_document_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DOCUMENTS[0].text = "other"
