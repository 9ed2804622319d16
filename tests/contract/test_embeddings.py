"""Stock OpenAIEmbeddings: what `ReliableOpenAIEmbeddings` replaces, and the places it takes hold of."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import socket
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import tiktoken.registry
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.exceptions import ModelError
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai.embeddings.base import MAX_TOKENS_PER_REQUEST

TEXTS = ["one", "two", "three", "four", "five"]


class Resource:
    """Stands where OpenAIEmbeddings keeps the SDK's resource; answers each text with its length."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0

    def create(self, **kwargs: Any) -> dict[str, Any]:
        self.calls.append(kwargs)
        return {"data": [{"embedding": [float(len(item)), 1.0]} for item in kwargs["input"]]}


class AsyncResource(Resource):
    async def create(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        return super().create(**kwargs)


async def test_each_chunk_is_one_create_on_whatever_the_client_fields_hold(simulate, embed):
    """OpenAIEmbeddings calls `self.client.create(input=…, model=…, **kwargs)`, all by keyword, once a chunk.

    `client` and `async_client` may be anything with a `create`.

    Ours: `RetriedEmbeddings` and `AsyncRetriedEmbeddings` in `models/embedding_request.py` stand there.
    """
    embeddings = embed(simulate(), chunk_size=2, dimensions=8)
    embeddings.client, embeddings.async_client = Resource(), AsyncResource()
    embeddings.embed_documents(TEXTS)
    await embeddings.aembed_documents(TEXTS)
    for resource in (embeddings.client, embeddings.async_client):
        assert [call.pop("input") for call in resource.calls] == [TEXTS[:2], TEXTS[2:4], TEXTS[4:]]
        assert resource.calls == [{"model": "text-embedding-ada-002", "dimensions": 8}] * 3


async def test_the_chunks_of_an_async_call_are_sent_one_after_the_other(simulate, embed):
    """`aembed_documents` awaits one chunk before it sends the next (langchain#945).

    Ours: `ReliableOpenAIEmbeddings.aembed_documents` in `models/embeddings.py` calls it for several chunks at
    once; were it to send them at once too, the bound would not hold.
    """
    embeddings = embed(simulate(), chunk_size=1)
    embeddings.async_client = AsyncResource()
    await embeddings.aembed_documents(TEXTS)
    assert embeddings.async_client.most_in_flight == 1


async def test_a_request_holds_chunk_size_pieces_and_so_many_tokens(simulate, embed):
    """A request takes `chunk_size` pieces and `MAX_TOKENS_PER_REQUEST` tokens, as `_tokenize` counts them.

    Without `check_embedding_ctx_length`, texts are counted and tokens are not. An empty list is no request.

    Ours: `ReliableOpenAIEmbeddings._chunks` in `models/embeddings.py` splits a list of texts just so.
    """

    class Counting(OpenAIEmbeddings):
        def _tokenize(self, texts: list[str], chunk_size: int) -> Any:
            return range(1), texts, range(len(texts)), [MAX_TOKENS_PER_REQUEST // 2] * len(texts)

    for has_check, sizes in (True, [2, 2, 1]), (False, [3, 2]):
        embeddings = embed(simulate(), Counting, check_embedding_ctx_length=has_check, chunk_size=3)
        embeddings.async_client = AsyncResource()
        assert await embeddings.aembed_documents([]) == []
        assert await embeddings.aembed_documents(TEXTS, None) == [[float(len(text)), 1.0] for text in TEXTS]
        assert [len(call["input"]) for call in embeddings.async_client.calls] == sizes
    assert MAX_TOKENS_PER_REQUEST == 300_000
    parameters = inspect.signature(OpenAIEmbeddings.aembed_documents).parameters
    assert list(parameters) == ["self", "texts", "chunk_size", "kwargs"]


async def test_tokenize_is_the_seam_for_splitting_texts(simulate, embed):
    """`_tokenize(texts, chunk_size)` returns (iterable, pieces, indices, token counts); pieces may be text.

    Vectors of one text's pieces are averaged by `len(piece)`, which is characters where pieces are text; the
    token counts only keep a request below 300,000.

    Ours: `ReliableOpenAIEmbeddings._tokenize` in `models/embeddings.py` returns text in place of tokens.
    """

    class Splitting(OpenAIEmbeddings):
        def _tokenize(self, texts: list[str], chunk_size: int) -> Any:
            return range(0, 3, chunk_size), ["a", "aaaaa", "aa"], [0, 0, 1], [3, 1, 1]

    embeddings = embed(simulate(), Splitting, check_embedding_ctx_length=True)
    embeddings.client, embeddings.async_client = Resource(), AsyncResource()
    vectors = embeddings.embed_documents(["first", "second"])
    assert vectors == await embeddings.aembed_documents(["first", "second"])
    assert [call["input"] for call in embeddings.client.calls] == [["a", "aaaaa", "aa"]]
    average = [(1 * 1 + 5 * 5) / 6, 1]
    length = sum(value**2 for value in average) ** 0.5
    assert vectors[0] == pytest.approx([value / length for value in average])
    assert vectors[1] == [2.0, 1.0]
    assert list(inspect.signature(OpenAIEmbeddings._tokenize).parameters) == ["self", "texts", "chunk_size"]


@pytest.fixture
def no_encodings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[str]:
    """Forget every BPE file that this machine has, and say who is asked for a new one."""
    asked: list[str] = []
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    refuse = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(str(host))
        return refuse(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_tokenize_downloads_a_file_at_run_time(simulate, embed, no_encodings):
    """Stock `_tokenize` asks the internet for a BPE file, and fails without (tiktoken#317).

    Ours: `ReliableOpenAIEmbeddings._tokenize` in `models/embeddings.py` splits by bytes.
    """
    embeddings = embed(simulate(), check_embedding_ctx_length=True)
    with pytest.raises(Exception, match="loopback"):
        embeddings.embed_documents(["x"])
    assert no_encodings == ["openaipublic.blob.core.windows.net"]


def test_counting_tokens_downloads_a_file_at_run_time(simulate, chat, no_encodings):
    """`ChatOpenAI.get_num_tokens` asks the internet for a BPE file, and fails without.

    Ours: nothing may call it; DESIGN's tokenizer needs no internet.
    """
    with pytest.raises(Exception, match="loopback"):
        chat(simulate()).get_num_tokens("Hello")
    assert no_encodings == ["openaipublic.blob.core.windows.net"]


def test_embeddings_tell_callbacks_nothing(simulate, embed, recorder):
    """Stock embeddings inside a chain step fire no callback, so no counter sees them.

    Ours: `models/embedding_request.py` fires them; were LangChain to do so too, they would count twice.
    """
    sim = simulate()
    counter = UsageMetadataCallbackHandler()
    chain = RunnableLambda(embed(sim).embed_query)
    chain.invoke("Hello", {"callbacks": [recorder, counter]})
    assert recorder.names() == []
    assert counter.usage_metadata == {}
    assert sim.bill.total.input_tokens > 0


def test_embedding_errors_are_the_sdks_own(simulate, embed):
    """Errors of embeddings leave raw: no LangChain ModelError.

    Ours: `classify` in `retry/errors.py` reads the SDK's classes; README says what embeddings raise.
    """
    with pytest.raises(openai.RateLimitError) as caught:
        embed(simulate(faults=["rate_limit"])).embed_query("x")
    assert type(caught.value) is openai.RateLimitError
    assert not isinstance(caught.value, ModelError)


def test_a_failed_chunk_pays_for_all_chunks_again(simulate, embed):
    """`embed_documents` fails as a whole: a retry around it sends what had succeeded once more.

    Ours: `models/embedding_request.py` retries each request alone.
    """
    sim = simulate(faults=["ok", "ok", "server_error"])
    embeddings = embed(sim, chunk_size=2)
    RunnableLambda(embeddings.embed_documents).with_retry(wait_exponential_jitter=False).invoke(TEXTS)
    assert sim.bill.requests == 5


def test_stock_embeddings_ignore_index_and_count(canned, embed):
    """A vector goes to the text at its place in the list, not to its `index`; too few are not noticed.

    Ours: `_checked` in `models/embedding_request.py` sorts by `index` and counts.
    """

    def vector(index: int) -> dict[str, Any]:
        return {"object": "embedding", "index": index, "embedding": [float(index)]}

    usage = {"prompt_tokens": 1, "total_tokens": 1}
    answer = {"object": "list", "model": "m", "usage": usage, "data": [vector(1), vector(0)]}
    assert embed(canned(answer)).embed_documents(["a", "b"]) == [[1.0], [0.0]]
    assert embed(canned({**answer, "data": [vector(0)]})).embed_documents(["a", "b"]) == [[0.0]]


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": None}])
def test_an_answer_without_data_is_a_value_error_with_these_words(canned, embed, body):
    """The SDK says ValueError("No embedding data received") where an answer has no data.

    Ours: `_known` in `models/embedding_request.py` takes exactly these words for a malformed answer.
    """
    with pytest.raises(ValueError) as caught:
        embed(canned(body)).embed_query("x")
    assert type(caught.value) is ValueError
    assert str(caught.value) == "No embedding data received"


def test_a_page_in_place_of_embeddings_is_an_attribute_error(simulate, embed):
    """A 200 with HTML: the SDK raises AttributeError. Broken JSON: JSONDecodeError. Neither has a response.

    Ours: `_known` in `models/embedding_request.py` takes every AttributeError for the server's.
    """
    with pytest.raises(AttributeError) as page:
        embed(simulate(faults=["not_json"])).embed_query("x")
    with pytest.raises(ValueError) as broken:
        embed(simulate(faults=["broken_json"])).embed_query("x")
    assert type(broken.value).__name__ == "JSONDecodeError"
    assert not hasattr(page.value, "response")
    assert not hasattr(broken.value, "response")


def test_the_sdks_answer_can_be_sorted_and_its_usage_dumped(simulate, sync_client):
    """CreateEmbeddingResponse: `data` is a list that can be sorted, `index` an int, `usage` a model.

    Ours: `_checked` and `_llm_result` in `models/embedding_request.py`.
    """
    client = openai.OpenAI(api_key="k", base_url=simulate().base_url, http_client=sync_client)
    response = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    response.data.sort(key=lambda item: -item.index)
    assert [item.index for item in response.data] == [1, 0]
    assert set(response.usage.model_dump()) >= {"prompt_tokens", "total_tokens"}
    assert response.model == "text-embedding-3-small"


@pytest.mark.parametrize("cls", [ChatOpenAI, OpenAIEmbeddings])
def test_stock_models_cannot_be_pickled(cls):
    """ChatOpenAI and OpenAIEmbeddings hold clients, and with them locks: `pickle` fails.

    Ours: `__getstate__` in `models/chat.py` and `models/embeddings.py` leaves the clients out.
    """
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(cls(api_key="k", base_url="http://127.0.0.1:9"))


def test_embeddings_build_their_clients_again_where_there_are_none(simulate, embed):
    """`validate_environment` is callable as a method, and fills `client` and `async_client` where None.

    Ours: `__setstate__` in `models/embeddings.py`.
    """
    embeddings: Any = embed(simulate())
    old = SimpleNamespace(client=embeddings.client, async_client=embeddings.async_client)
    assert embeddings.validate_environment() is embeddings
    assert embeddings.client is old.client
    embeddings.client = embeddings.async_client = None
    embeddings.validate_environment()
    assert type(embeddings.client) is openai.resources.Embeddings
    assert type(embeddings.async_client) is openai.resources.AsyncEmbeddings
