"""ReliableOpenAIEmbeddings against the simulator: what it sends, retries, splits and leaves alone."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import orjson
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

from lc_service import ReliableOpenAIEmbeddings, RetryWithExponentialBackoff, TokenCounter, track_usage
from lc_service.models.embedding_request import AsyncRetriedEmbeddings, RetriedEmbeddings
from lc_service.simulator import Fault, FaultPlan, Simulator

TEXTS = [f"Text number {number} is about the sea." for number in range(7)]
KEY = "sk-test-DISTINCTIVE-0123456789"


def fast(retries: int = 5) -> RetryWithExponentialBackoff:
    return RetryWithExponentialBackoff(0.001, 0.001, retries)


@pytest.fixture
def make(port: int) -> Callable[..., ReliableOpenAIEmbeddings]:
    def make(**options: Any) -> ReliableOpenAIEmbeddings:
        options = {"api_key": KEY, "base_url": f"http://127.0.0.1:{port}/v1"} | options
        if "max_retries" not in options:
            options.setdefault("retry", fast())
        return ReliableOpenAIEmbeddings(**options)

    return make


@pytest.fixture(params=["sync", "async"])
def embed(request: pytest.FixtureRequest) -> Callable[..., list[list[float]]]:
    """Embed by either method: both must do the same."""

    def run(embeddings: ReliableOpenAIEmbeddings, texts: list[str], **options: Any) -> list[list[float]]:
        if request.param == "sync":
            return embeddings.embed_documents(texts, **options)
        return asyncio.run(embeddings.aembed_documents(texts, **options))

    return run


def inputs(simulator: Simulator) -> list[Any]:
    return [orjson.loads(request.body)["input"] for request in simulator.requests]


def statuses(simulator: Simulator) -> list[int | None]:
    return [request.status for request in simulator.requests]


# --- retries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_concurrent_chunks", [1, 8])
def test_a_failed_chunk_is_retried_alone(
    max_concurrent_chunks: int, simulate: Any, make: Any, embed: Any
) -> None:
    sim = simulate(faults=["ok", "server_error", "reset", "ok", "rate_limit"])
    vectors = embed(make(chunk_size=2, max_concurrent_chunks=max_concurrent_chunks), TEXTS)
    chunks = [TEXTS[start : start + 2] for start in range(0, 7, 2)]
    sent = inputs(sim)
    assert [chunk for chunk in chunks if chunk in sent] == chunks
    assert len(sent) == 7
    if max_concurrent_chunks == 1:
        assert sent == [chunks[0], *[chunks[1]] * 3, *[chunks[2]] * 2, chunks[3]]
    assert sim.bill.requests == 4
    assert vectors == embed(make(), TEXTS)


def test_the_sdk_does_not_retry_beside_the_policy(simulate: Any, make: Any, embed: Any) -> None:
    sim = simulate(faults=["server_error"] * 20)
    for options, attempts in ({"retry": fast(2)}, 3), ({"max_retries": 0}, 1), ({"retry": fast(0)}, 1):
        before = len(sim.requests)
        with pytest.raises(openai.InternalServerError):
            embed(make(**options), TEXTS)
        assert len(sim.requests) - before == attempts


def test_max_retries_is_short_for_a_policy(make: Any) -> None:
    embeddings = make(max_retries=3)
    assert embeddings.retry == RetryWithExponentialBackoff(max_retries=3)
    assert make(max_retries=0).retry.max_retries == 0
    with pytest.raises(ValueError, match="either max_retries or retry"):
        make(max_retries=3, retry=fast())


@pytest.mark.parametrize(
    ("kind", "error"),
    [("unauthorized", openai.AuthenticationError), ("bad_request", openai.BadRequestError),
     ("insufficient_quota", openai.RateLimitError)],
)  # fmt: skip
def test_what_cannot_succeed_is_asked_once(
    kind: str, error: type[Exception], simulate: Any, make: Any, embed: Any
) -> None:
    sim = simulate(faults=[kind])
    with pytest.raises(error):
        embed(make(), TEXTS)
    assert len(sim.requests) == 1


@pytest.mark.parametrize("kind", ["not_json", "broken_json", "cut", "bad_gateway", "rate_limit_date"])
def test_every_request_of_a_shaky_server_comes_through(
    kind: str, simulate: Any, make: Any, embed: Any
) -> None:
    sim = simulate(faults=FaultPlan.first(kind))
    with track_usage() as usage:
        assert len(embed(make(chunk_size=3), TEXTS)) == 7
    assert len(sim.requests) == 6
    assert usage.calls == 3


def test_with_retry_gives_the_copy_another_policy(simulate: Any, make: Any, embed: Any) -> None:
    sim = simulate(faults=["server_error"] * 20)
    patient, hasty = make(retry=fast(3)), make(retry=fast(3)).with_retry(fast(0))
    assert type(hasty) is ReliableOpenAIEmbeddings
    for embeddings, attempts in (hasty, 1), (patient, 4), (hasty, 1):
        before = len(sim.requests)
        with pytest.raises(openai.InternalServerError):
            embed(embeddings, TEXTS)
        assert len(sim.requests) - before == attempts


def test_a_copy_follows_its_own_fields(simulate: Any, make: Any, embed: Any) -> None:
    sim = simulate()
    counter, other = TokenCounter(), TokenCounter()
    embeddings = make(callbacks=[counter])
    copy = embeddings.model_copy(update={"callbacks": [other], "model": "text-embedding-3-large"})
    assert [len(vector) for vector in embed(copy, ["the sea"])] == [3072]
    assert (counter.usage.calls, other.usage.calls) == (0, 1)
    embed(embeddings, ["the sea"])
    assert (counter.usage.calls, other.usage.calls) == (1, 1)
    assert [request.model for request in sim.requests] == ["text-embedding-3-large", "text-embedding-ada-002"]


# --- chunks at once ---------------------------------------------------------------------------------------


class InFlight:
    """Counts the requests of an HTTP client that have no response yet."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.client = httpx2.AsyncClient(event_hooks={"request": [self._begin], "response": [self._end]})

    async def _begin(self, request: httpx2.Request) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    async def _end(self, response: httpx2.Response) -> None:
        self.now -= 1


@pytest.mark.parametrize(("options", "most"), [({}, 8), ({"max_concurrent_chunks": 3}, 3)])
async def test_chunks_are_sent_at_once_up_to_a_bound(
    options: dict[str, Any], most: int, simulate: Any, make: Any
) -> None:
    sim = simulate(latency_seconds=0.05)
    in_flight = InFlight()
    texts = [f"text {number}" for number in range(20)]
    async with in_flight.client:
        embeddings = make(chunk_size=1, http_async_client=in_flight.client, **options)
        vectors = await embeddings.aembed_documents(texts)
    assert in_flight.most == most
    assert len(sim.requests) == 20
    assert vectors == make().embed_documents(texts)


async def test_vectors_keep_the_order_of_their_texts_whoever_is_first(make: Any) -> None:
    ended = [asyncio.Event() for _ in range(9)]
    ended[8].set()

    class LastComesFirst:
        async def create(self, *, input: list[str], **kwargs: Any) -> dict[str, Any]:  # noqa: A002
            number = len(input[0])
            await ended[number + 1].wait()
            ended[number].set()
            return {"data": [{"embedding": [float(number)]}]}

    texts = ["x" * number for number in range(1, 8)]
    vectors = await make(chunk_size=1, async_client=LastComesFirst()).aembed_documents(texts)
    assert vectors == [[float(number)] for number in range(1, 8)]


@pytest.mark.parametrize("error", ["bad_request", "insufficient_quota"])
async def test_after_a_failed_chunk_no_more_are_begun_and_what_was_sent_is_counted(
    error: str, simulate: Any, make: Any
) -> None:
    slow = Fault("slow", delay_seconds=0.05)
    sim = simulate(faults=[slow, error, slow, slow])
    with track_usage() as usage, pytest.raises(openai.APIStatusError):
        await make(chunk_size=1, max_concurrent_chunks=4).aembed_documents(TEXTS)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(sim.requests) == 4
    assert sim.bill.requests == 3
    assert usage.total.input_tokens == sim.bill.total.input_tokens > 0


async def test_the_first_error_is_raised(simulate: Any, make: Any) -> None:
    simulate(faults=[Fault("slow", delay_seconds=0.03), "unauthorized", "not_found"])
    with pytest.raises((openai.AuthenticationError, openai.NotFoundError)) as caught:
        await make(chunk_size=3, max_concurrent_chunks=3).aembed_documents(TEXTS)
    assert not isinstance(caught.value, BaseExceptionGroup)


async def test_cancelling_stops_all_requests(simulate: Any, make: Any) -> None:
    sim = simulate(latency_seconds=20)
    task = asyncio.create_task(make(chunk_size=1, max_concurrent_chunks=3).aembed_documents(TEXTS))
    while len(sim.requests) < 3:  # noqa: ASYNC110  the simulator runs in a thread of its own
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await asyncio.to_thread(sim.wait_until_idle)
    assert len(sim.requests) == 3


@given(
    sizes=st.lists(st.integers(0, 130), max_size=12),
    chunk_size=st.integers(1, 5),
    limit=st.integers(1, 20),
    letter=st.sampled_from(["x", "é", "海"]),
)
def test_chunks_are_the_requests_that_langchain_makes(
    sizes: list[int], chunk_size: int, limit: int, letter: str
) -> None:
    """No chunk is split again, but for a single text with more parts than a request takes."""
    embeddings = PARTS.model_copy(update={"embedding_ctx_length": limit})
    texts = [letter * size for size in sizes]
    chunks = list(embeddings._chunks(texts, chunk_size))
    assert [text for chunk in chunks for text in chunk] == texts
    for chunk in chunks:
        parts = len(embeddings._tokenize(chunk, chunk_size)[1])
        # letters of several bytes do not always fill a part
        assert parts <= chunk_size or len(chunk) == 1 or letter != "x"


def test_chunks_hold_what_a_request_may(make: Any) -> None:
    embeddings = make()
    texts = ["x" * 12_000] * 60
    assert [len(chunk) for chunk in embeddings._chunks(texts, 1_000)] == [49, 11]
    assert [len(chunk) for chunk in embeddings._chunks(texts, 40)] == [40, 20]
    whole = make(check_embedding_ctx_length=False)
    assert [len(chunk) for chunk in whole._chunks(texts, 1_000)] == [60]


@pytest.mark.parametrize("number", [0, -1])
def test_at_least_one_chunk_at_a_time(number: int, make: Any) -> None:
    with pytest.raises(ValueError, match="max_concurrent_chunks"):
        make(max_concurrent_chunks=number)


# --- what is sent -----------------------------------------------------------------------------------------


def test_base64_and_float_bring_the_same_vectors(simulate: Any, make: Any, embed: Any) -> None:
    sim = simulate()
    embeddings = make(model="text-embedding-3-small")
    as_base64, as_floats = embed(embeddings, TEXTS), embed(embeddings, TEXTS, encoding_format="float")
    asked = [orjson.loads(request.body)["encoding_format"] for request in sim.requests]
    assert asked == ["base64", "float"]
    for one, two in zip(as_base64, as_floats, strict=True):
        assert one == pytest.approx(two, abs=1e-6)
        assert type(one[0]) is float


def test_dimensions_are_sent(simulate: Any, make: Any, embed: Any) -> None:
    simulate()
    assert {len(vector) for vector in embed(make(model="text-embedding-3-small", dimensions=64), TEXTS)} == {
        64
    }


@pytest.mark.parametrize("has_check", [True, False])
def test_texts_are_sent_as_texts_in_chunks(has_check: bool, simulate: Any, make: Any, embed: Any) -> None:
    sim = simulate()
    vectors = embed(make(chunk_size=3, check_embedding_ctx_length=has_check), TEXTS)
    assert sorted(inputs(sim)) == [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    assert vectors == embed(make(), TEXTS, chunk_size=100)
    assert len(sim.requests) == 4


def test_no_texts_are_no_request(simulate: Any, make: Any, embed: Any) -> None:
    sim = simulate()
    assert embed(make(), []) == []
    assert embed(make(check_embedding_ctx_length=False), []) == []
    assert sim.requests == []


class _Stock(OpenAIEmbeddings):
    """OpenAIEmbeddings with a tokenizer that needs no download."""

    def _tokenize(self, texts: list[str], chunk_size: int) -> Any:
        places = [index for index, text in enumerate(texts) if text]
        return range(1), [texts[index] for index in places], places, [1] * len(places)


@pytest.mark.parametrize("texts", [[""], ["the sea", "", "a ship"], ["", ""]])
def test_an_empty_text_fares_as_with_langchains_own(
    texts: list[str], simulate: Any, make: Any, embed: Any, port: int
) -> None:
    sim = simulate()
    with pytest.raises(openai.BadRequestError):
        _Stock(api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1").embed_documents(texts)
    stock = inputs(sim)
    sim.reset()
    with pytest.raises(openai.BadRequestError):
        embed(make(), texts)
    assert inputs(sim) == stock


def test_one_text_and_a_vector_store_work(simulate: Any, make: Any) -> None:
    simulate()
    embeddings = make()
    assert embeddings.embed_query("the sea") == embeddings.embed_documents(["the sea"])[0]
    assert asyncio.run(embeddings.aembed_query("the sea")) == embeddings.embed_query("the sea")
    store = InMemoryVectorStore(embeddings)
    store.add_texts(["ships on the sea", "bread and butter"])
    assert store.similarity_search("the sea", k=1)[0].page_content == "ships on the sea"


def test_no_tokenizer_is_asked_for(
    simulate: Any, make: Any, embed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a tokenizer was asked for")

    monkeypatch.setattr(tiktoken, "encoding_for_model", refuse)
    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    simulate()
    assert len(embed(make(), ["x" * 40_000, *TEXTS])) == 8


# --- long texts -------------------------------------------------------------------------------------------

PARTS = ReliableOpenAIEmbeddings(api_key=KEY, base_url="http://127.0.0.1:9/v1")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(1, 12))
def test_a_text_is_split_between_characters_into_parts_within_the_limit(text: str, limit: int) -> None:
    embeddings = PARTS.model_copy(update={"embedding_ctx_length": limit})
    chunks, parts, places, counts = embeddings._tokenize([text, "and", text], 10)
    assert "".join(part for part, place in zip(parts, places, strict=True) if place == 0) == text
    assert "".join(part for part, place in zip(parts, places, strict=True) if place == 2) == text
    for part in parts:
        assert part
        # two bytes a token; a single character is never split, however small the limit
        assert len(part.encode()) <= max(2 * limit, 4)
        assert len(part.encode()) <= 2 * limit or len(part) == 1
    assert len(parts) == len(places) == len(counts)
    assert all(count > 0 for count in counts)
    assert len(chunks) == math.ceil(len(parts) / 10)


def test_a_text_within_the_limit_is_one_part() -> None:
    for text in ("x" * 16_382, "é" * 8_191, "海" * 5_460):
        assert PARTS._tokenize([text], 10)[1] == [text]
    assert [len(part) for part in PARTS._tokenize(["x" * 16_383], 10)[1]] == [16_382, 1]


def test_a_long_text_gets_the_average_of_its_parts(simulate: Any, make: Any, embed: Any) -> None:
    sim = simulate()
    text = "the sea is wide, bread is good" + "ships"
    embeddings = make(embedding_ctx_length=15)
    (vector,) = embed(embeddings, [text])
    assert inputs(sim) == [[text[:30], text[30:]]]
    parts = embed(make(), [text[:30], text[30:]])
    mixed = [30 * one + 5 * two for one, two in zip(*parts, strict=True)]
    norm = math.sqrt(sum(value * value for value in mixed))
    assert vector == pytest.approx([value / norm for value in mixed], abs=1e-6)


def test_a_request_stays_below_the_apis_limit_of_tokens(simulate: Any, make: Any, embed: Any) -> None:
    """300,000 tokens a request; counted as two bytes each, which is on the safe side."""
    sim = simulate()
    embed(make(dimensions=4), ["x y z " * 2_000] * 60)  # 12,000 bytes each
    assert sorted(len(texts) for texts in inputs(sim)) == [11, 49]


# --- callbacks, loops, pickling ---------------------------------------------------------------------------


def test_usage_reaches_own_callbacks_the_chains_and_trackers(simulate: Any, make: Any) -> None:
    sim = simulate()
    own, chains = TokenCounter(), TokenCounter()
    embeddings = make(callbacks=[own])
    step = RunnableLambda(embeddings.embed_documents, afunc=embeddings.aembed_documents)
    with track_usage() as usage:
        step.invoke(TEXTS, {"callbacks": [chains]})
        asyncio.run(step.ainvoke(TEXTS, {"callbacks": [chains]}))
    for report in (own.usage, chains.usage, usage):
        assert report.total.input_tokens == sim.bill.total.input_tokens > 0
        assert report.calls == 2


def test_ten_event_loops_send_each_request_once(simulate: Any, make: Any) -> None:
    sim = simulate()
    embeddings = make()
    for number in range(10):
        asyncio.run(embeddings.aembed_documents([f"text {number}"]))
    assert statuses(sim) == [200] * 10


async def test_many_tasks_get_their_own_vectors(simulate: Any, make: Any) -> None:
    simulate(faults=FaultPlan.first("rate_limit"))
    embeddings = make()
    expected = [await embeddings.aembed_query(text) for text in TEXTS]
    results = await asyncio.gather(*(embeddings.aembed_query(TEXTS[i % 7]) for i in range(50)))
    assert results == [expected[i % 7] for i in range(50)]


def test_it_can_be_pickled(simulate: Any, make: Any, embed: Any) -> None:
    sim = simulate(faults=["ok", "server_error", "server_error"])
    embeddings = make(model="text-embedding-3-small", dimensions=8, chunk_size=3, retry=fast(1))
    embed(embeddings, ["the sea"])
    data = pickle.dumps(embeddings)
    copy = pickle.loads(data)
    assert copy.retry == embeddings.retry
    assert (copy.model, copy.dimensions, copy.chunk_size) == ("text-embedding-3-small", 8, 3)
    with pytest.raises(openai.InternalServerError):
        embed(copy, ["the sea"])
    assert len(sim.requests) == 3
    assert embed(copy, TEXTS) == embed(embeddings, TEXTS)


# --- clients ----------------------------------------------------------------------------------------------


def _sdk_clients(embeddings: ReliableOpenAIEmbeddings) -> Iterator[Any]:
    assert isinstance(embeddings.client, RetriedEmbeddings)
    assert isinstance(embeddings.async_client, AsyncRetriedEmbeddings)
    yield embeddings.client.resource._client
    yield embeddings.async_client.resource._client


def test_a_timeout_is_the_sdks_unless_said_otherwise(make: Any) -> None:
    limits = httpx2.Timeout(3.0, connect=1.0)
    embeddings = make()
    assert all(client.timeout == openai.DEFAULT_TIMEOUT for client in _sdk_clients(embeddings))
    for copy in (embeddings.with_retry(fast(1)), pickle.loads(pickle.dumps(embeddings))):
        assert all(client.timeout == openai.DEFAULT_TIMEOUT for client in _sdk_clients(copy))
    assert all(client.timeout == limits for client in _sdk_clients(make(timeout=limits)))
    assert all(client.timeout == 2.5 for client in _sdk_clients(make(request_timeout=2.5)))
    assert all(client.timeout is None for client in _sdk_clients(make(timeout=None)))
    assert all(client.max_retries == 0 for client in _sdk_clients(embeddings))


def test_clients_of_the_callers_own_carry_the_requests(simulate: Any, make: Any) -> None:
    simulate(faults=FaultPlan.first("rate_limit"))
    carried: list[str] = []

    async def note_async(request: httpx2.Request) -> None:
        carried.append("async")

    async def use_async() -> None:
        async with httpx2.AsyncClient(event_hooks={"request": [note_async]}) as async_client:
            embeddings = make(http_client=client, http_async_client=async_client)
            await embeddings.aembed_query("a ship")
            embeddings.embed_query("the sea")
            await embeddings.with_retry(fast(2)).aembed_query("an island")

    hooks: Any = {"request": [lambda _: carried.append("sync")]}
    with httpx2.Client(event_hooks=hooks) as client:
        asyncio.run(use_async())
    assert carried == ["async"] * 2 + ["sync"] * 2 + ["async"] * 2


def test_a_resource_of_the_callers_own_is_left_alone(make: Any) -> None:
    class Resource:
        def create(self, *, input: list[str], **kwargs: Any) -> dict[str, Any]:  # noqa: A002
            return {"data": [{"embedding": [float(len(text))]} for text in input]}

    mine = Resource()
    embeddings = make(client=mine)
    assert embeddings.client is mine
    assert embeddings.with_retry(fast(1)).client is mine
    assert embeddings.embed_documents(["a", "bcd"]) == [[1.0], [3.0]]


def test_a_proxy_carries_the_requests(simulate: Any, make: Any, relay_to: Any, port: int) -> None:
    sim = simulate(faults=FaultPlan.first("rate_limit"))
    relay = relay_to(port)
    target = f"POST http://127.0.0.1:{port}/v1/embeddings".encode()
    embeddings = make(openai_proxy=relay.url)
    unpickled = pickle.loads(pickle.dumps(embeddings))
    for each in (embeddings, embeddings.with_retry(fast(2)), unpickled):
        before = len(relay.first_lines)
        each.embed_query("the sea")
        asyncio.run(each.aembed_query("a ship"))
        lines = relay.first_lines[before:]
        assert len(lines) == 4
        assert all(line.startswith(target) for line in lines)
    assert len(sim.requests) == 12
    for each in (embeddings, unpickled):  # LangChain makes this client, and leaves it open
        each.http_client.close()


def test_the_key_is_shown_nowhere(make: Any, simulate: Any, embed: Any) -> None:
    simulate(faults=["unauthorized"])
    embeddings = make()
    assert KEY not in repr(embeddings) + str(embeddings)
    with pytest.raises(openai.AuthenticationError) as caught:
        embed(embeddings, ["the sea"])
    assert KEY not in repr(caught.value) + str(caught.value)
