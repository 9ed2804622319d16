"""Azure's classes: the same promises over the deployments' paths, keys, tokens, limits and error bodies."""

from __future__ import annotations

import asyncio
import http.server
import inspect
import json
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from langchain.agents import create_agent
from langchain_core.load import dumps, loads
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from pydantic import BaseModel

from lc_service import Budget, BudgetExceeded, RateLimits, TokenCounter, track_usage
from lc_service.models.azure import ReliableAzureChatOpenAI, ReliableAzureOpenAIEmbeddings
from lc_service.models.chat import ReliableChatOpenAI
from lc_service.retry.errors import ErrorKind, classify
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import FaultPlan, ServerLimits

pytestmark = pytest.mark.filterwarnings(
    "ignore:Pydantic serializer warnings"
)  # upstream's, of parsed answers
DEPLOYMENTS = {"house": "gpt-4.1-mini", "thinker": "o4-mini", "vectors": "text-embedding-3-small"}
AZURE_KEY = "azure-DISTINCTIVE-0123456789"
TEXTS = ["Text one is about the sea.", "Text two is about the hills."]


class Place(BaseModel):
    """Describe a place."""

    name: str
    country: str


@tool
def get_weather(city: str) -> str:
    """Say what the weather is like in a city."""
    return f"It is sunny in {city}."


@pytest.fixture
def azure(simulate: Any) -> Callable[..., Any]:
    """Start a simulator with deployments."""
    return lambda **options: simulate(deployments=DEPLOYMENTS, **options)


@pytest.fixture
def make(port: int) -> Callable[..., Any]:
    """Make a model of a deployment; its retries wait next to nothing."""

    def make_model(cls: type = ReliableAzureChatOpenAI, **options: Any) -> Any:
        is_chat = issubclass(cls, AzureChatOpenAI)
        defaults = {
            "azure_endpoint": f"http://127.0.0.1:{port}",
            "azure_deployment": "house" if is_chat else "vectors",
            "api_version": "2024-10-21",
            "retry": RetryWithExponentialBackoff(initial_delay=0.001, max_delay=0.01),
        }
        if not any(name.startswith("azure_ad") for name in options):
            defaults["api_key"] = AZURE_KEY
        return cls(**{**defaults, **options})

    return make_model


# --- counted is what was billed ---------------------------------------------------------------------------


def invoke(make: Any) -> None:
    assert make().invoke("Hello").response_metadata["model_name"] == "gpt-4.1-mini"


async def ainvoke(make: Any) -> None:
    assert (await make().ainvoke("Hello")).usage_metadata["total_tokens"] > 0


def batch(make: Any) -> None:
    assert len({answer.text for answer in make().batch(TEXTS)}) == 2


def reasoning_by_a_name_in_the_path(make: Any) -> None:
    assert make(azure_deployment=None, model="thinker", reasoning_effort="low").invoke("Hello").text


def stream(make: Any) -> None:
    assert len(list(make().stream("Hello"))) > 3


async def astream(make: Any) -> None:
    assert len([chunk async for chunk in make().astream("Hello")]) > 3


def streaming_switched_on(make: Any) -> None:
    assert make(streaming=True).invoke("Hello").text


def responses_api(make: Any) -> None:
    assert make(use_responses_api=True).invoke("Hello").text


def responses_api_stream(make: Any) -> None:
    assert len(list(make(use_responses_api=True).stream("Hello"))) > 3


def tools(make: Any) -> None:
    assert make().bind_tools([get_weather]).invoke("get_weather of Paris, please").tool_calls


def agent(make: Any) -> None:
    done = create_agent(make(), tools=[get_weather]).invoke({"messages": [("user", "Call get_weather.")]})
    assert "sunny" in done["messages"][-1].text


def structured_by_schema(make: Any) -> None:
    assert isinstance(make().with_structured_output(Place).invoke("Paris in France"), Place)


def structured_by_function(make: Any) -> None:
    structured = make().with_structured_output(Place, method="function_calling")
    assert isinstance(structured.invoke("Paris in France"), Place)


def structured_by_json_mode(make: Any) -> None:
    structured = make().with_structured_output(Place, method="json_mode")
    assert isinstance(structured.invoke("JSON with 'name' and 'country' of Paris in France"), Place)


def several_choices(make: Any) -> None:
    make(n=3).invoke("Hello")


def embed(make: Any) -> None:
    assert len(make(ReliableAzureOpenAIEmbeddings).embed_documents(TEXTS)) == 2


async def aembed_in_chunks(make: Any) -> None:
    assert len(await make(ReliableAzureOpenAIEmbeddings, chunk_size=1).aembed_documents(TEXTS)) == 2


SHAPES = [
    invoke, ainvoke, batch, reasoning_by_a_name_in_the_path, stream, astream, streaming_switched_on,
    responses_api, responses_api_stream, tools, agent, structured_by_schema, structured_by_function,
    structured_by_json_mode, several_choices, embed, aembed_in_chunks,
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_counted_is_what_was_billed_though_each_request_is_rejected_once(
    shape: Any, azure: Any, make: Any
) -> None:
    sim = azure(faults=FaultPlan.first("rate_limit"))
    with track_usage() as usage:
        if inspect.iscoroutinefunction(shape):
            asyncio.run(shape(make))
        else:
            shape(make)
    bill = sim.bill
    assert bill.requests > 0
    assert (usage.total.input_tokens, usage.total.output_tokens) == (
        bill.total.input_tokens,
        bill.total.output_tokens,
    )
    assert usage.total.reasoning_tokens == bill.total.reasoning_tokens
    assert (usage.calls, usage.attempts, usage.unknown) == (bill.requests, len(sim.requests), 0)
    assert len(sim.requests) == 2 * bill.requests
    assert {request.path.split("/")[1] for request in sim.requests} == {"openai"}


def test_the_v1_path_is_an_ordinary_base_url(azure: Any, make_model: Any) -> None:
    sim = azure(faults=FaultPlan.first("rate_limit"))
    model = make_model(ReliableChatOpenAI, base_url=f"{sim.azure_endpoint}/openai/v1/", model="house")
    with track_usage() as usage:
        assert model.invoke("Hello").response_metadata["model_name"] == "gpt-4.1-mini"
        assert list(model.stream("Hello again"))
    assert {request.path for request in sim.requests} == {"/openai/v1/chat/completions"}
    assert usage.total.total_tokens == sim.bill.total.total_tokens
    assert (usage.attempts, usage.cost_usd is None) == (4, False)


# --- names and prices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_price_is_that_of_the_model_behind_the_deployment(
    is_streamed: bool, azure: Any, make: Any
) -> None:
    azure()
    with track_usage() as usage:
        list(make().stream("Hello")) if is_streamed else make().invoke("Hello")
    assert usage.cost_usd
    assert list(usage.group_by("model")) == ["house"]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_models_version_is_part_of_its_name_streamed_or_not(
    is_streamed: bool, azure: Any, make: Any
) -> None:
    azure()
    counter = TokenCounter()
    model = make(model_version="2025-04-14", callbacks=[counter])
    answer = reduce(add, model.stream("Hello")) if is_streamed else model.invoke("Hello")
    assert answer.response_metadata["model_name"] == "gpt-4.1-mini-2025-04-14"
    assert counter.usage.cost_usd


def test_embeddings_are_called_by_their_deployment_unless_their_model_is_named(azure: Any, make: Any) -> None:
    azure()
    for options, name in (({}, "vectors"), ({"model": "text-embedding-3-small"}, "text-embedding-3-small")):
        with track_usage() as usage:
            make(ReliableAzureOpenAIEmbeddings, **options).embed_query("Hello")
        assert list(usage.group_by("model")) == [name]
        assert usage.cost_usd


def test_a_budget_in_usd_prices_the_named_model_before_it_is_asked(azure: Any, make: Any) -> None:
    sim = azure()
    model = make(model="gpt-4.1-mini", budget=Budget(usd="0.00000001"), max_tokens=100)
    with pytest.raises(BudgetExceeded):
        model.invoke("Hello")
    assert sim.requests == []


def test_a_budget_in_tokens_holds_for_chat_and_embeddings_together(azure: Any, make: Any) -> None:
    sim = azure()
    budget = Budget(tokens=200, strict=True)
    make(budget=budget, max_tokens=30).invoke("Hello")
    make(ReliableAzureOpenAIEmbeddings, budget=budget).embed_query("Hello")
    with pytest.raises(BudgetExceeded):
        make(budget=budget, max_tokens=180).invoke("Hello")
    assert sim.bill.requests == 2


# --- limits -----------------------------------------------------------------------------------------------


def test_a_deployment_has_one_limiter_whoever_asks_it(azure: Any, make: Any) -> None:
    sim = azure()
    first, second = make(), make(api_key="another-key-0123", model="gpt-4.1-mini")
    third = make(azure_deployment="thinker")
    by_token = make(azure_ad_token="a-token")
    by_name = make(azure_deployment=None, model="thinker")
    limiters = []
    for model in (first, second, by_token, third):
        call = model._call([], {}, None)
        limiters.append(call.limiter)
    assert limiters[0] is limiters[1] is limiters[2] is not limiters[3]
    assert by_name._call([], {}, None).limiter is not limiters[0]
    assert sim.requests == []


def test_limits_are_kept_without_a_rejection(azure: Any, make: Any) -> None:
    sim = azure(limits=ServerLimits(requests_per_minute=6_000, burst_seconds=60))
    model = make(rate_limits=RateLimits(requests_per_minute=6_000))

    async def ask() -> None:
        await asyncio.gather(*(model.ainvoke(f"Number {number}") for number in range(20)))

    asyncio.run(ask())
    assert {request.status for request in sim.requests} == {200}


def test_what_never_fits_is_not_repeated_tomorrow(azure: Any, make: Any) -> None:
    sim = azure(limits=ServerLimits(tokens_per_minute=50))
    with pytest.raises(openai.RateLimitError) as caught:
        make().invoke("Hello", max_tokens=1_000)
    assert classify(caught.value).kind is ErrorKind.REQUEST_TOO_LARGE
    assert len(sim.requests) == 1
    assert make().invoke("Hello", max_tokens=10).text  # and nobody else waits for it


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "kind"),
    [
        ("bad_request", openai.BadRequestError, ErrorKind.INVALID_REQUEST),
        ("unauthorized", openai.AuthenticationError, ErrorKind.AUTHENTICATION),
        ("not_found", openai.NotFoundError, ErrorKind.NOT_FOUND),
        ("context_length", openai.BadRequestError, ErrorKind.CONTEXT_OVERFLOW),
        ("insufficient_quota", openai.RateLimitError, ErrorKind.QUOTA_EXHAUSTED),
    ],
)
def test_what_cannot_succeed_is_asked_once_and_costs_nothing(
    fault: str, error: Any, kind: ErrorKind, azure: Any, make: Any
) -> None:
    sim = azure(faults=[fault])
    with track_usage() as usage, pytest.raises(error) as caught:
        make().invoke("Hello")
    assert classify(caught.value).kind is kind
    assert len(sim.requests) == 1
    assert (usage.total.total_tokens, usage.unknown) == (0, 0)


@pytest.mark.parametrize("fault", ["server_error", "unavailable", "bad_gateway", "reset", "no_finish", "cut"])
def test_what_may_pass_is_repeated(fault: str, azure: Any, make: Any) -> None:
    sim = azure(faults=[fault])
    assert make().invoke("Hello").text
    assert len(sim.requests) == 2


def test_a_deployment_that_is_not_there_is_named_as_azure_does(azure: Any, make: Any) -> None:
    azure()
    with pytest.raises(openai.NotFoundError, match="deployment for this resource does not exist"):
        make(azure_deployment="nobody").invoke("Hello")


def test_a_rejection_is_known_by_the_gateways_id(azure: Any, make: Any) -> None:
    azure(faults=["unauthorized"])
    records: list[Any] = []

    class Ledger:
        def record(self, record: Any) -> None:
            records.append(record)

    with pytest.raises(openai.AuthenticationError) as caught:
        make(ledger=Ledger()).invoke("Hello")
    assert records[0].request_id == "00000001-0000-4000-8000-000000000000"
    assert classify(caught.value).request_id == records[0].request_id


FILTERED = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4.1-mini",
    "choices": [
        {
            "index": 0,
            "finish_reason": "content_filter",
            "message": {"role": "assistant"},
            "content_filter_results": {"hate": {"filtered": True, "severity": "high"}},
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_filtered_answer_is_an_error_that_is_counted_and_not_repeated(is_async: bool, make: Any) -> None:
    sent = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, json=FILTERED)

    transport = httpx2.MockTransport(answer)
    model = make(
        http_client=httpx2.Client(transport=transport),
        http_async_client=httpx2.AsyncClient(transport=transport),
    )
    with track_usage() as usage, pytest.raises(ValueError, match="content filter") as caught:
        asyncio.run(model.ainvoke("Hello")) if is_async else model.invoke("Hello")
    assert isinstance(caught.value, openai.ContentFilterFinishReasonError)
    assert len(sent) == 1
    assert (usage.total.input_tokens, usage.total.output_tokens, usage.unknown) == (7, 5, 0)


# --- keys and tokens --------------------------------------------------------------------------------------


def test_a_token_provider_is_asked_for_every_attempt(azure: Any, make: Any) -> None:
    sim = azure(faults=["rate_limit"])
    tokens = [f"token-number-{number}" for number in range(4)]
    given = iter(tokens)
    model = make(azure_ad_token_provider=lambda: next(given))
    assert model.invoke("Hello").text
    assert asyncio.run(model.ainvoke("Hello")).text
    shown = [request.authorization_masked for request in sim.requests]
    assert [text[-1] for text in shown] == ["0", "1", "2"]


def test_an_async_token_provider_serves_async_calls_and_leaves_no_sync_client(azure: Any, make: Any) -> None:
    sim = azure(faults=["rate_limit"])
    asked = []

    async def provide() -> str:
        asked.append(1)
        return "an-async-token-0123"

    model = make(azure_ad_async_token_provider=provide)
    vectors = make(ReliableAzureOpenAIEmbeddings, azure_ad_async_token_provider=provide)

    async def ask() -> None:
        assert (await model.ainvoke("Hello")).text
        assert await vectors.aembed_query("Hello")

    with track_usage() as usage:
        asyncio.run(ask())
    assert len(asked) == len(sim.requests) == usage.attempts == 3
    with pytest.raises(ValueError, match=r"[Ss]ync"):
        model.invoke("Hello")


@pytest.mark.parametrize("name", ["api_key", "azure_ad_token"])
def test_a_key_or_token_that_cannot_be_a_header_is_refused_and_not_shown(name: str, make: Any) -> None:
    with pytest.raises(ValueError, match="line break") as caught:
        make(**{name: f"{AZURE_KEY}\n"})
    assert AZURE_KEY not in str(caught.value)


def test_keys_and_tokens_are_never_shown(azure: Any, make: Any, caplog: Any) -> None:
    azure(api_key="another-key", faults=[None])
    model = make(azure_ad_token=AZURE_KEY)
    caplog.set_level("DEBUG", "lc_service")
    with pytest.raises(openai.AuthenticationError) as caught:
        model.invoke("Hello")
    for text in (repr(model), str(model), caplog.text, str(caught.value), dumps(model)):
        assert AZURE_KEY not in text


class Elsewhere:
    """Two servers: the first sends whoever asks to the second, which keeps the headers it gets."""

    def __init__(self) -> None:
        self.headers: list[Any] = []
        elsewhere = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                if self.server is elsewhere.servers[0]:
                    port = elsewhere.servers[1].server_address[1]
                    self.send_response(307)
                    self.send_header("location", f"http://localhost:{port}{self.path}")
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                elsewhere.headers.append(self.headers)
                body = json.dumps(
                    {**FILTERED, "choices": [{"index": 0, "finish_reason": "stop", "message": MESSAGE}]}
                ).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) for _ in range(2)]
        for server in self.servers:
            server.daemon_threads = True
            server.block_on_close = False
            threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.servers[0].server_address[1]}"


MESSAGE = {"role": "assistant", "content": "Hello"}


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    started = Elsewhere()
    yield started
    for server in started.servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_key_does_not_follow_a_redirect_to_another_server(
    is_async: bool, elsewhere: Elsewhere, make: Any, simulate: Any, make_model: Any
) -> None:
    model = make(azure_endpoint=elsewhere.url)

    async def ask() -> None:
        simulate()
        await make_model().ainvoke("Hello")  # the loop's client is made before Azure's model is
        await model.ainvoke("Hello")

    asyncio.run(ask()) if is_async else model.invoke("Hello")
    assert len(elsewhere.headers) == 1
    assert AZURE_KEY not in str(elsewhere.headers[0])


# --- made, copied, pickled, serialised --------------------------------------------------------------------


def test_azures_own_fields_and_defaults_stay(make: Any) -> None:
    ours, stock = ReliableAzureChatOpenAI.model_fields, AzureChatOpenAI.model_fields
    changed = {
        name
        for name in stock
        if (ours[name].alias, ours[name].default, ours[name].annotation)
        != (stock[name].alias, stock[name].default, stock[name].annotation)
    }
    assert changed == {"stream_usage"}
    assert set(ours) - set(stock) == {
        "retry", "budget", "ledger", "telemetry", "rate_limits", "circuit_breaker", "hedge",
    }  # fmt: skip


def test_the_sdks_own_retries_are_off_and_the_timeout_is_the_sdks(make: Any) -> None:
    model, vectors = make(), make(ReliableAzureOpenAIEmbeddings)
    for client in (model.root_client, model.root_async_client, vectors.client.resource._client):
        assert client.max_retries == 0
        assert client.timeout == openai.DEFAULT_TIMEOUT
        assert isinstance(client, openai.AzureOpenAI | openai.AsyncAzureOpenAI)


def test_with_retry_returns_the_same_class_with_another_policy(make: Any) -> None:
    policy = RetryWithExponentialBackoff(max_retries=1)
    for model in (make(), make(ReliableAzureOpenAIEmbeddings)):
        copy = model.with_retry(retry=policy)
        assert type(copy) is type(model)
        assert copy.retry is policy


def provide_token() -> str:
    return "a-token-that-is-provided"


@pytest.mark.parametrize("cls", [ReliableAzureChatOpenAI, ReliableAzureOpenAIEmbeddings])
@pytest.mark.parametrize("options", [{}, {"azure_ad_token_provider": provide_token}], ids=["key", "provider"])
def test_a_model_can_be_pickled(cls: Any, options: Any, azure: Any, make: Any) -> None:
    sim = azure(faults=["rate_limit"])
    copy = pickle.loads(pickle.dumps(make(cls, **options)))
    assert copy.embed_query("Hello") if cls is ReliableAzureOpenAIEmbeddings else copy.invoke("Hello").text
    assert [request.status for request in sim.requests] == [429, 200]


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_what_was_dumped_loads_as_azurechatopenai(make: Any) -> None:
    model = make()
    assert model.lc_id() == AzureChatOpenAI.lc_id()
    loaded = loads(dumps(model), secrets_map={"AZURE_OPENAI_API_KEY": AZURE_KEY}, allowed_objects="all")
    assert type(loaded) is AzureChatOpenAI
    assert loaded.deployment_name == "house"


def test_tokens_are_counted_without_a_download(make: Any) -> None:
    assert make().get_num_tokens("Hello there, how are you?") > 3
    assert make(model="gpt-4.1-mini").get_num_tokens_from_messages([HumanMessage("Hello")]) > 3


def test_the_guides_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[2] / "docs" / "interoperation.md"
    (example,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", AZURE_KEY)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["model"].deployment_name == "house"
    assert names["embeddings"].deployment == "vectors"
