"""Cut a user's documents into passages and find those that are near a question.

Invariant: a passage is a piece of one document, character for character, with the document's metadata
and where it starts. The index lives in memory; it is neither saved nor updated.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.document_loaders import BaseLoader, Blob
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import Field
from typing_extensions import override

from chains.material import is_blank

SCORE_KEY = "score"
"""Where a passage's metadata has its nearness to the question."""

_STOPS = "\u3002\uff01\uff1f"  # Chinese and Japanese end sentences by these, and have no spaces to cut at
_PAUSES = "\uff1b\uff0c\u3001"
_ARABIC_STOPS = ["\u061f ", "\u06d4 "]
_SEPARATORS = ["\n\n", "\n", *_STOPS, ". ", "! ", "? ", *_ARABIC_STOPS, *_PAUSES, "; ", ", ", " ", ""]
"""Where to cut, the best places first."""

_NEEDED = 'An index needs langchain-text-splitters and numpy: pip install "lc-service[retrieval]".'


class PassageRetriever(BaseRetriever):
    """Finds the passages nearest to a question; each has its `score` in its metadata.

    Attributes:
        store: Any of LangChain's vector stores; what its scores mean is its own. `build_index` makes one
            whose scores are cosine similarities, 1.0 the nearest.
        max_passages: The most passages to return.
        min_score: Passages with a lower score are left out; None keeps all.
    """

    store: VectorStore
    max_passages: int = Field(default=4, ge=1)
    min_score: float | None = None

    @override
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self._scored(self.store.similarity_search_with_score(query, k=self.max_passages))

    @override
    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self._scored(await self.store.asimilarity_search_with_score(query, k=self.max_passages))

    def _scored(self, found: list[tuple[Document, float]]) -> list[Document]:
        return [
            passage.model_copy(update={"metadata": {**passage.metadata, SCORE_KEY: float(score)}})
            for passage, score in found
            if self.min_score is None or score >= self.min_score
        ]


def load_text_files(paths: Iterable[str | Path]) -> Iterator[Document]:
    """Read text files in UTF-8, one document each, its path as the `source` in its metadata.

    Args:
        paths: The files; each is opened when the iteration comes to it.

    Raises:
        OSError: A file cannot be read.
        UnicodeDecodeError: A file is no UTF-8.
    """
    for path in paths:
        yield Document(Blob.from_path(path).as_string(), metadata={"source": str(path)})


def split_documents(
    documents: BaseLoader | Iterable[Document],
    *,
    chunk_characters: int = 1_000,
    overlap_characters: int = 150,
) -> list[Document]:
    """Cut documents into passages; blank ones give none.

    Args:
        documents: Documents, or a loader of LangChain's.
        chunk_characters: The longest passage.
        overlap_characters: The most that a passage repeats of the one before it.

    Returns:
        Passages with the metadata of their document, and `start_index`, their first character in it.

    Raises:
        ValueError: `overlap_characters` is not below `chunk_characters`, or either is out of range.
        ImportError: `langchain-text-splitters` is not installed (the extra `retrieval`).
    """
    try:
        from langchain_text_splitters import RecursiveCharacterTextSplitter  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ImportError(_NEEDED) from error
    splitter = RecursiveCharacterTextSplitter(
        separators=_SEPARATORS,
        keep_separator="end",
        chunk_size=chunk_characters,
        chunk_overlap=overlap_characters,
        add_start_index=True,
    )
    loaded = documents.lazy_load() if isinstance(documents, BaseLoader) else documents
    return splitter.split_documents(document for document in loaded if not is_blank(document.page_content))


def build_index(
    documents: BaseLoader | Iterable[Document],
    embeddings: Embeddings,
    *,
    max_passages: int = 4,
    min_score: float | None = None,
    chunk_characters: int = 1_000,
    overlap_characters: int = 150,
) -> PassageRetriever:
    """Cut documents into passages, embed them, and return what finds them.

    Args:
        documents: Documents, or a loader of LangChain's.
        embeddings: What embeds the passages now, and each question later.
        max_passages: The most passages to find for a question.
        min_score: The least cosine similarity of a passage worth finding; None keeps all.
        chunk_characters: The longest passage.
        overlap_characters: The most that a passage repeats of the one before it.

    Returns:
        A retriever over an `InMemoryVectorStore`.

    Raises:
        ValueError: There is nothing to read in the documents, or a number is out of range.
        ImportError: `langchain-text-splitters` or `numpy` is not installed (the extra `retrieval`).
    """
    store = _new_store(embeddings)
    retriever = PassageRetriever(store=store, max_passages=max_passages, min_score=min_score)
    store.add_documents(_passages(documents, chunk_characters, overlap_characters))
    return retriever


async def abuild_index(
    documents: BaseLoader | Iterable[Document],
    embeddings: Embeddings,
    *,
    max_passages: int = 4,
    min_score: float | None = None,
    chunk_characters: int = 1_000,
    overlap_characters: int = 150,
) -> PassageRetriever:
    """Do as `build_index`, embedding without blocking the event loop."""
    store = _new_store(embeddings)
    retriever = PassageRetriever(store=store, max_passages=max_passages, min_score=min_score)
    await store.aadd_documents(_passages(documents, chunk_characters, overlap_characters))
    return retriever


def _new_store(embeddings: Embeddings) -> VectorStore:
    from langchain_core.vectorstores import InMemoryVectorStore  # noqa: PLC0415  not cheap

    try:
        importlib.import_module("numpy")  # the store asks for it when all is embedded and paid for
    except ImportError as error:
        raise ImportError(_NEEDED) from error
    return InMemoryVectorStore(embeddings)


def _passages(
    documents: BaseLoader | Iterable[Document], chunk_characters: int, overlap_characters: int
) -> list[Document]:
    passages = split_documents(
        documents, chunk_characters=chunk_characters, overlap_characters=overlap_characters
    )
    if not passages:
        raise ValueError("there is nothing to read in the documents")
    return passages
