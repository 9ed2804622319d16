"""One request for embeddings: every vector belongs to its text, or there is an error of a known class."""

from __future__ import annotations

import array
import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda

from lc_service import (
    MalformedResponseError,
    ReliableOpenAIEmbeddings,
    RetryWithExponentialBackoff,
    TokenCounter,
    TokenUsage,
    track_usage,
)
from lc_service.models.embedding_request import RetriedEmbeddings, Terms

TEXTS = ["alpha", "bravo", "charlie", "delta"]
USAGE = {"prompt_tokens": 9, "total_tokens": 9}


def vector_of(text: str) -> list[float]:
    return [float(ord(text[0])), 0.5]


def item(index: int, text: str, form: str) -> dict[str, Any]:
    vector: Any = vector_of(text)
    if form == "base64":
        vector = base64.b64encode(array.array("f", vector).tobytes()).decode()
    return {"object": "embedding", "index": index, "embedding": vector}


def answer_to(asked: dict[str, Any]) -> dict[str, Any]:
    form = asked.get("encoding_format", "float")
    texts = [str(text) for text in asked["input"]]
    data = [item(index, text, form) for index, text in enumerate(texts)]
    return {"object": "list", "data": data, "model": "answering-model", "usage": USAGE}


class Scripted:
    """A server on loopback that answers with what a test makes of the right answer."""

    def __init__(self) -> None:
        self.script: list[Callable[[dict[str, Any]], Any]] = []
        self.asked: list[dict[str, Any]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                scripted.asked.append(asked)
                right = answer_to(asked)
                answer = scripted.script.pop(0)(right) if scripted.script else right
                is_text = isinstance(answer, str)
                body = answer.encode() if is_text else json.dumps(answer).encode()
                self.send_response(200)
                is_json = not is_text or answer.startswith("{")
                self.send_header("content-type", "application/json" if is_json else "text/html")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

        self._embeddings = ReliableOpenAIEmbeddings(api_key="sk-test", base_url=self.base_url)

    def embeddings(self, **options: Any) -> ReliableOpenAIEmbeddings:
        """Copy one object: each new one loads the certificates twice."""
        policy = RetryWithExponentialBackoff(0.001, 0.001, 2)  # with a retry quota of its own
        return self._embeddings.model_copy(update={"retry": policy} | options)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def _scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


@pytest.fixture
def server(_scripted: Scripted) -> Scripted:
    _scripted.script.clear()
    _scripted.asked.clear()
    return _scripted


@pytest.fixture(params=["sync", "async"])
def embed(request: pytest.FixtureRequest) -> Callable[..., list[list[float]]]:
    """Embed through either resource: both must do the same."""

    def run(embeddings: ReliableOpenAIEmbeddings, texts: list[str], **options: Any) -> list[list[float]]:
        if request.param == "sync":
            return embeddings.embed_documents(texts, **options)
        return asyncio.run(embeddings.aembed_documents(texts, **options))

    return run


FORMS = pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])


# --- order ------------------------------------------------------------------------------------------------


def _shuffled(right: dict[str, Any]) -> dict[str, Any]:
    data = right["data"]
    return right | {"data": [data[2], data[0], data[3], data[1]]}


@FORMS
def test_vectors_go_to_their_texts_in_whatever_order_they_come(
    options: dict[str, Any], server: Scripted, embed: Any
) -> None:
    server.script = [_shuffled]
    assert embed(server.embeddings(), TEXTS, **options) == [vector_of(text) for text in TEXTS]
    assert len(server.asked) == 1


def _without_index(right: dict[str, Any]) -> dict[str, Any]:
    return right | {"data": [{k: v for k, v in each.items() if k != "index"} for each in right["data"]]}


@pytest.mark.parametrize(
    "change",
    [
        _without_index,
        lambda right: right | {"data": [each | {"index": None} for each in right["data"]]},
        lambda right: right | {"data": [each | {"index": 0} for each in right["data"]]},
    ],
    ids=["missing", "null", "all zero"],
)
def test_vectors_that_are_not_numbered_stay_as_sent(change: Any, server: Scripted, embed: Any) -> None:
    server.script = [change]
    assert embed(server.embeddings(), TEXTS) == [vector_of(text) for text in TEXTS]


# --- answers that are none --------------------------------------------------------------------------------


def _indexes(*indexes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda right: (
        right | {"data": [each | {"index": i} for each, i in zip(right["data"], indexes, strict=True)]}
    )


def _second(value: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(right: dict[str, Any]) -> dict[str, Any]:
        first, second, *rest = right["data"]
        return right | {"data": [first, second | {"embedding": value}, *rest]}

    return change


BROKEN = {
    "too few": lambda right: right | {"data": right["data"][:-1]},
    "too many": lambda right: right | {"data": [*right["data"], right["data"][0]]},
    "one twice": _indexes(0, 1, 1, 3),
    "one beyond": _indexes(0, 1, 2, 4),
    "from one": _indexes(1, 2, 3, 4),
    "numbered in part": _indexes(0, None, 2, 3),
    "numbered in words": _indexes("0", "1", "2", "3"),
    "a null vector": _second(None),
    "an empty vector": _second([]),
    "a vector in words": _second("[0.1, 0.2, 0.3]"),
    "half a number": _second("YWJj"),
    "no vector": lambda right: right | {"data": [{"object": "embedding", "index": i} for i in range(4)]},
    "null data": lambda right: right | {"data": None},
    "empty data": lambda right: right | {"data": []},
    "data in words": lambda right: right | {"data": "four"},
    "no data": lambda right: {key: value for key, value in right.items() if key != "data"},
    "an empty object": lambda right: {},
    "an error in a 200": lambda right: {"error": {"message": "overloaded"}},
    "a page": lambda right: "<html>Bad gateway</html>",
    "broken JSON": lambda right: json.dumps(right)[:-20],
    "a list": lambda right: [1, 2],
    "null": lambda right: None,
}


@FORMS
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_an_answer_that_is_none_is_retried(
    change: Any, options: dict[str, Any], server: Scripted, embed: Any
) -> None:
    server.script = [change]
    assert embed(server.embeddings(), TEXTS, **options) == [vector_of(text) for text in TEXTS]
    assert len(server.asked) == 2


@FORMS
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_an_answer_that_stays_none_is_a_malformed_response(
    change: Any, options: dict[str, Any], server: Scripted, embed: Any
) -> None:
    server.script = [change] * 3
    with pytest.raises(MalformedResponseError) as caught:
        embed(server.embeddings(), TEXTS, **options)
    assert len(server.asked) == 3
    assert "alpha" not in str(caught.value)


def test_counts_are_told(server: Scripted, embed: Any) -> None:
    server.script = [BROKEN["too few"]] * 3
    with pytest.raises(MalformedResponseError, match="3 embeddings for 4 texts"):
        embed(server.embeddings(), TEXTS)


def test_a_wrong_argument_is_the_callers_error(server: Scripted, embed: Any) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        embed(server.embeddings(), TEXTS, nonsense=1)
    assert server.asked == []


# --- what servers other than OpenAI's leave out -----------------------------------------------------------


def _leave_out(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda right: {key: value for key, value in right.items() if key != name}


def test_without_a_model_name_the_one_asked_for_is_counted(server: Scripted, embed: Any) -> None:
    server.script = [_leave_out("model")]
    with track_usage() as usage:
        assert embed(server.embeddings(model="asked-model"), TEXTS) == [vector_of(text) for text in TEXTS]
    assert list(usage.group_by("model")) == ["asked-model"]
    assert usage.total == TokenUsage(input_tokens=9)


@pytest.mark.parametrize(
    "change",
    [_leave_out("usage"), lambda right: right | {"usage": None}, lambda right: right | {"usage": {}}],
)
def test_without_usage_the_call_is_unknown_not_free(change: Any, server: Scripted, embed: Any) -> None:
    server.script = [change]
    with track_usage() as usage:
        assert embed(server.embeddings(), TEXTS) == [vector_of(text) for text in TEXTS]
    assert (usage.calls, usage.unknown, usage.total) == (1, 1, TokenUsage())
    assert list(usage.group_by("model")) == [server.embeddings().model]
    assert list(usage.group_by("operation")) == ["embeddings"]


# --- callbacks --------------------------------------------------------------------------------------------


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.said: list[Any] = []
        self.parents: list[Any] = []
        self.tags: list[Any] = []

    def _note(self, name: str, args: Any, kwargs: Any) -> None:
        self.names.append(name)
        self.said.append((args, kwargs))
        self.parents.append(kwargs["parent_run_id"])
        self.tags.append(kwargs.get("tags"))

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        self._note("start", args, kwargs)

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self._note("end", args, kwargs)

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self._note("error", args, kwargs)

    def on_retry(self, *args: Any, **kwargs: Any) -> None:
        self._note("retry", args, kwargs)


def test_each_request_is_a_run(server: Scripted, embed: Any) -> None:
    recorder = Recorder()
    server.script = [BROKEN["a page"]]
    embed(server.embeddings(callbacks=[recorder], chunk_size=2, max_concurrent_chunks=1), TEXTS)
    assert recorder.names == ["start", "retry", "end", "start", "end"]
    assert len({kwargs["run_id"] for _, kwargs in recorder.said}) == 2


def test_a_failed_request_is_a_failed_run(server: Scripted, embed: Any) -> None:
    recorder = Recorder()
    server.script = [BROKEN["a page"]] * 3
    with pytest.raises(MalformedResponseError) as caught:
        embed(server.embeddings(callbacks=[recorder]), TEXTS)
    assert recorder.names == ["start", "retry", "retry", "error"]
    assert recorder.said[-1][0][0] is caught.value


def test_texts_and_vectors_are_not_shown_to_callbacks(server: Scripted, embed: Any) -> None:
    recorder = Recorder()
    server.script = [BROKEN["too few"]]
    embed(server.embeddings(callbacks=[recorder], model="m"), TEXTS)
    for args, kwargs in recorder.said:
        for text in TEXTS:
            assert text not in repr(args) + repr(kwargs)
        assert "0.5" not in repr(args)
    args, kwargs = recorder.said[0]
    assert args[1] == ["4 texts to embed"]
    assert kwargs["invocation_params"]["model"] == "m"


def test_the_callbacks_tags_and_run_of_a_chain_step_reach_the_request(server: Scripted, embed: Any) -> None:
    recorder, counter = Recorder(), TokenCounter()
    embeddings = server.embeddings()
    step = RunnableLambda(embeddings.embed_documents, afunc=embeddings.aembed_documents)
    config: Any = {"callbacks": [recorder, counter], "tags": ["mine"]}

    step.invoke(TEXTS, config)
    asyncio.run(step.ainvoke(TEXTS, config))
    assert recorder.names == ["start", "end"] * 2
    assert None not in recorder.parents
    assert recorder.tags[0] == ["mine"]
    assert counter.usage.calls == 2
    embed(embeddings, TEXTS)  # outside of the chain
    assert counter.usage.calls == 2


def test_own_callbacks_and_the_chains_are_told_once(server: Scripted) -> None:
    counter = TokenCounter()
    embeddings = server.embeddings(callbacks=[counter])
    with track_usage() as usage:
        RunnableLambda(embeddings.embed_query).invoke("alpha", {"callbacks": [counter]})
    assert (counter.usage.calls, usage.calls) == (1, 1)


@pytest.mark.parametrize("is_inline_first", [False, True])
def test_handlers_that_run_inline_and_others_are_told_the_same(
    is_inline_first: bool, server: Scripted, embed: Any
) -> None:
    class Inline(Recorder):
        run_inline = True

    handlers = [Recorder(), Inline(), Recorder()]
    server.script = [BROKEN["a page"]]
    embed(server.embeddings(callbacks=handlers[is_inline_first:]), TEXTS)
    for handler in handlers[is_inline_first:]:
        assert handler.names == ["start", "retry", "end"]
        assert len({kwargs["run_id"] for _, kwargs in handler.said}) == 1


def test_a_callback_that_raises_costs_no_vector(server: Scripted, embed: Any) -> None:
    class Raising(BaseCallbackHandler):
        def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("start")

        def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("end")

    counter = TokenCounter()
    assert embed(server.embeddings(callbacks=[Raising(), counter]), TEXTS)
    assert counter.usage.calls == 1


# --- token lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "count"), [([1, 2, 3], 1), ([[1, 2], [3]], 2), ("alpha", 1), (["alpha", "bravo"], 2)]
)
def test_what_the_sdk_takes_as_input_is_counted_as_the_sdk_does(
    given: Any, count: int, server: Scripted
) -> None:
    def answer(right: dict[str, Any]) -> dict[str, Any]:
        return right | {"data": [item(index, "alpha", "base64") for index in range(count)]}

    server.script = [answer]
    resource = RetriedEmbeddings(
        openai.OpenAI(api_key="k", base_url=server.base_url, max_retries=0).embeddings,
        lambda: Terms(retry=RetryWithExponentialBackoff(max_retries=0)),
    )
    assert len(resource.create(input=given, model="m").data) == count
