"""The demo's documents: short original texts in ten languages, shipped with the package.

Reading them needs no network and no file system path. They are sample input, not a benchmark.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

__all__ = ["Document", "load_documents"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text of the data set.

    Attributes:
        id: Unique and stable, such as "en-lighthouse"; it can serve as the key of a batch item.
        language: ISO 639-1 code of the language of title and text.
        title: One line.
        text: 60 to 160 words, or as much in scripts that do not separate words.
    """

    id: str
    language: str
    title: str
    text: str


def load_documents() -> list[Document]:
    """Return all documents, in the order of the file."""
    source = resources.files(__name__).joinpath("documents.jsonl")
    # line by line through the file: str.splitlines would also cut at U+2028 inside a text
    with source.open(encoding="utf-8") as lines:
        return [Document(**json.loads(line)) for line in lines]
