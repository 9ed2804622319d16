"""The front door: what it returns, what it reads, what it sends, and what it never says."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai.data._profiles import _PROFILES

from lc_service import (
    BudgetExceeded,
    CircuitBreaker,
    ConfigurationError,
    Hedge,
    OpenAIService,
    ReliableChatOpenAI,
    ReliableOpenAIEmbeddings,
    RetryWithExponentialBackoff,
    ServiceSettings,
    TokenUsage,
    UsageLedger,
    track_usage,
)
from lc_service.retry.errors import ErrorKind, classify
from lc_service.simulator import FaultPlan, Simulator

KEY = "sk-DISTINCTIVE-KEY-0123456789-abcdefghij"
SECRET_PROMPT = "The password of the harbour master is Zanzibar."


@pytest.fixture(scope="module")
def _server() -> Iterator[Simulator]:
    with Simulator(api_key=KEY) as simulator:
        yield simulator


@pytest.fixture
def sim(_server: Simulator) -> Simulator:
    _server.reset()
    return _server


@pytest.fixture(scope="module")
def _shaky_server() -> Iterator[Simulator]:
    with Simulator(faults=FaultPlan.first("rate_limit")) as simulator:
        yield simulator


@pytest.fixture
def shaky_sim(_shaky_server: Simulator) -> Simulator:
    _shaky_server.reset()
    return _shaky_server


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away whatever a developer has set, a `.env` file included."""
    for field, info in ServiceSettings.model_fields.items():
        for name in (f"LC_SERVICE_{field.upper()}", *getattr(info.validation_alias, "choices", ())):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def make_service(simulator: Simulator, **options: Any) -> OpenAIService:
    options = {
        "api_key": KEY,
        "base_url": simulator.base_url,
        "model": "gpt-4.1-mini",
        "retry": RetryWithExponentialBackoff(0.001, 0.001),
    } | options
    return OpenAIService(**options)


@pytest.fixture
def service(sim: Simulator) -> OpenAIService:
    return make_service(sim)


def body(simulator: Simulator) -> dict[str, Any]:
    """Return what the latest request asked for."""
    return orjson.loads(simulator.requests[-1].body)


def billed(simulator: Simulator) -> TokenUsage:
    total = simulator.bill.total
    return TokenUsage(
        input_tokens=total.input_tokens,
        cached_input_tokens=total.cached_input_tokens,
        output_tokens=total.output_tokens,
        reasoning_tokens=total.reasoning_tokens,
    )


# --- what it returns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_chat_completion_returns_content_role_and_usage(
    is_async: bool, service: OpenAIService, sim: Simulator
) -> None:
    messages = [{"role": "user", "content": "What is the sea?"}]
    if is_async:
        answer = asyncio.run(service.achat_completion(messages))
    else:
        answer = service.chat_completion(messages)
    total = sim.bill.total
    assert answer == {
        "content": "You asked: “What is the sea?” This is a simulated answer, the same every time.",
        "role": "assistant",
        "usage": {
            "prompt_tokens": total.input_tokens,
            "completion_tokens": total.output_tokens,
            "total_tokens": total.total_tokens,
        },
    }
    assert type(answer["content"]) is str  # not a LangChain subclass


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_streams_yield_the_text_in_pieces(is_async: bool, service: OpenAIService, sim: Simulator) -> None:
    async def collect() -> list[str]:
        return [piece async for piece in service.astream_chat("What is the sea?")]

    pieces = asyncio.run(collect()) if is_async else list(service.stream_chat("What is the sea?"))
    assert len(pieces) > 5
    assert all(type(piece) is str and piece for piece in pieces)
    assert "".join(pieces) == service.chat_completion("What is the sea?")["content"]
    assert service.usage.total == billed(sim)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_embed_returns_a_vector_a_text(is_async: bool, service: OpenAIService, sim: Simulator) -> None:
    texts = ["the sea", "a ship", "the sea"]
    vectors = asyncio.run(service.aembed(texts)) if is_async else service.embed(texts)
    assert [len(vector) for vector in vectors] == [1536] * 3
    assert vectors[0] == vectors[2] != vectors[1]
    assert body(sim)["model"] == "text-embedding-3-small"
    assert service.embed([]) == []
    assert sim.bill.requests == 1


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_one_text_instead_of_a_list_is_refused(
    is_async: bool, service: OpenAIService, sim: Simulator
) -> None:
    with pytest.raises(TypeError, match=r"embed\(\[text\]\)"):
        _ = asyncio.run(service.aembed("the sea")) if is_async else service.embed("the sea")
    assert sim.requests == []


def test_token_usage_has_the_originals_keys(service: OpenAIService, sim: Simulator) -> None:
    zero = {"total_tokens": 0, "prompt_tokens": 0, "completion_tokens": 0}
    assert service.get_token_usage() == zero
    service.chat_completion("Hello")
    list(service.stream_chat("Hello"))
    service.embed(["the sea"])
    total = sim.bill.total
    assert service.get_token_usage() == {
        "total_tokens": total.total_tokens,
        "prompt_tokens": total.input_tokens,
        "completion_tokens": total.output_tokens,
    }
    assert list(service.get_token_usage()) == list(zero)
    assert service.usage.total == billed(sim)
    assert service.usage.calls == 3
    assert list(service.usage.group_by("operation")) == ["chat", "embeddings"]


def test_the_models_are_ordinary_langchain_objects(service: OpenAIService, sim: Simulator) -> None:
    assert isinstance(service.chat_model, ReliableChatOpenAI)
    assert isinstance(service.embeddings, ReliableOpenAIEmbeddings)
    assert service.embeddings is service.embeddings
    prompt = ChatPromptTemplate.from_template("Tell me about {topic}.")
    chain = prompt | service.chat_model | StrOutputParser()
    with track_usage() as usage:
        assert "the sea" in chain.invoke({"topic": "the sea"})
        store = InMemoryVectorStore(service.embeddings)
        store.add_texts(["ships on the sea", "bread and butter"])
        assert store.similarity_search("the sea", k=1)[0].page_content == "ships on the sea"
    assert service.usage.total == usage.total == billed(sim)
    assert service.usage.calls == 3


def test_an_answer_from_the_cache_uses_nothing(service: OpenAIService, sim: Simulator) -> None:
    set_llm_cache(InMemoryCache())
    try:
        first, second = service.chat_completion("Hello"), service.chat_completion("Hello")
    finally:
        set_llm_cache(None)
    assert sim.bill.requests == 1
    assert second["content"] == first["content"]
    assert second["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert service.get_token_usage()["total_tokens"] == first["usage"]["total_tokens"]


# --- settings ---------------------------------------------------------------------------------------------


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, sim: Simulator) -> None:
    for name, value in {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": sim.base_url,
        "LC_SERVICE_MODEL": "gpt-4.1-nano",
        "LC_SERVICE_EMBEDDING_MODEL": "text-embedding-3-large",
        "LC_SERVICE_TEMPERATURE": "0.25",
        "LC_SERVICE_TIMEOUT_SECONDS": "12.5",
        "LC_SERVICE_INITIAL_DELAY": "0.5",
        "LC_SERVICE_MAX_DELAY": "8",
        "LC_SERVICE_MAX_RETRIES": "2",
        "LC_SERVICE_DEADLINE_SECONDS": "99",
    }.items():
        monkeypatch.setenv(name, value)
    service = OpenAIService()
    service.chat_completion("Hello")
    assert (body(sim)["model"], body(sim)["temperature"]) == ("gpt-4.1-nano", 0.25)
    service.embed(["the sea"])
    assert body(sim)["model"] == "text-embedding-3-large"
    assert service.chat_model.request_timeout == service.embeddings.request_timeout == 12.5
    assert service.chat_model.retry == RetryWithExponentialBackoff(0.5, 8, 2, deadline_seconds=99)
    assert service.embeddings.retry is service.chat_model.retry  # one quota for both


def test_a_budget_from_the_settings_holds_for_all_of_a_services_calls(
    monkeypatch: pytest.MonkeyPatch, sim: Simulator
) -> None:
    monkeypatch.setenv("LC_SERVICE_BUDGET_USD", "0.00000001")
    service = make_service(sim)
    with pytest.raises(BudgetExceeded):
        service.chat_completion("Hello")
    with pytest.raises(BudgetExceeded):
        service.embed(["the sea"])
    assert sim.requests == []
    monkeypatch.setenv("LC_SERVICE_BUDGET_USD", "5")
    service = make_service(sim)
    service.chat_completion("Hello")
    service.embed(["the sea"])
    assert service.budget is not None
    assert 0 < service.budget.spent.usd == service.usage.cost_usd < 5


@pytest.mark.parametrize("is_setting", [True, False], ids=["setting", "argument"])
def test_a_ledger_named_by_its_file_keeps_every_attempt(
    is_setting: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sim: Simulator
) -> None:
    path = tmp_path / "usage.db"
    if is_setting:
        monkeypatch.setenv("LC_SERVICE_LEDGER", str(path))
    service = make_service(sim, **({} if is_setting else {"ledger": path}))
    service.chat_completion("Hello")
    service.embed(["the sea"])
    assert service.ledger is not None
    service.ledger.close()
    with UsageLedger(path) as kept:
        attempts = list(kept.records())
    assert {attempt.operation for attempt in attempts} == {"chat", "embeddings"}
    assert sum((attempt.usage for attempt in attempts), TokenUsage()) == billed(sim)


def test_a_redis_url_that_is_none_is_named_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LC_SERVICE_REDIS_URL", "ftp://user:zanzibar@redis.test")
    with pytest.raises(ConfigurationError, match="LC_SERVICE_REDIS_URL") as caught:
        OpenAIService()
    assert "zanzibar" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_BASE", "LC_SERVICE_BASE_URL"])
def test_an_argument_comes_before_the_environment_that_before_the_file(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = f"OPENAI_API_KEY=sk-file\nLC_SERVICE_MODEL=file-model\n{name}=http://file.test\nOTHER=1\n"
    Path(".env").write_text(file)
    settings = ServiceSettings.load()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-file"
    assert (settings.model, settings.base_url) == ("file-model", "http://file.test")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    monkeypatch.setenv("LC_SERVICE_MODEL", "env-model")
    monkeypatch.setenv(name, "http://env.test")
    settings = ServiceSettings.load()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-env"
    assert (settings.model, settings.base_url) == ("env-model", "http://env.test")
    settings = ServiceSettings.load(api_key="sk-arg", model="arg-model", base_url="http://arg.test")
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-arg"
    assert (settings.model, settings.base_url) == ("arg-model", "http://arg.test")


@pytest.mark.parametrize("in_file", ["OPENAI_BASE_URL", "OPENAI_API_BASE", "LC_SERVICE_BASE_URL"])
@pytest.mark.parametrize("in_env", ["OPENAI_BASE_URL", "OPENAI_API_BASE", "LC_SERVICE_BASE_URL"])
def test_the_environment_comes_before_the_file_under_any_of_its_names(
    in_env: str, in_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text(f"{in_file}=http://file.test\n")
    monkeypatch.setenv(in_env, "http://env.test")
    assert ServiceSettings.load().base_url == "http://env.test"


@pytest.mark.parametrize(
    "name", ["OPENAI_BASE_URL", "OPENAI_API_BASE", "LC_SERVICE_BASE_URL", "LC_SERVICE_MODEL",
             "LC_SERVICE_TEMPERATURE", "LC_SERVICE_MAX_RETRIES"],
)  # fmt: skip
def test_an_empty_variable_is_as_good_as_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    service = OpenAIService(api_key=KEY)
    assert ServiceSettings.load() == ServiceSettings()
    assert service.chat_model.model_name == "gpt-5.4-mini"
    for client in (service.chat_model.root_client, service.chat_model.root_async_client):
        assert str(client.base_url) == "https://api.openai.com/v1/"
    for resource in (service.embeddings.client, service.embeddings.async_client):
        assert str(resource.resource._client.base_url) == "https://api.openai.com/v1/"


def test_an_empty_variable_does_not_hide_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("OPENAI_API_KEY=sk-file\nOPENAI_BASE_URL=http://file.test/v1\n")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert str(OpenAIService().chat_model.root_client.base_url) == "http://file.test/v1/"


@pytest.mark.parametrize("key", [None, "", "   ", "\n"])
def test_a_missing_key_is_a_configuration_error_that_says_what_to_do(
    key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with pytest.raises(ConfigurationError, match=r"OPENAI_API_KEY.*\.env.*api_key="):
        OpenAIService(key)
    assert issubclass(ConfigurationError, ValueError)


BAD_SETTINGS = [
    ("LC_SERVICE_TEMPERATURE", "7.25"),
    ("LC_SERVICE_TEMPERATURE", "warmish"),
    ("LC_SERVICE_TEMPERATURE", "nan"),
    ("LC_SERVICE_TIMEOUT_SECONDS", "0"),
    ("LC_SERVICE_TIMEOUT_SECONDS", "inf"),
    ("LC_SERVICE_INITIAL_DELAY", "-3.25"),
    ("LC_SERVICE_INITIAL_DELAY", "inf"),
    ("LC_SERVICE_MAX_DELAY", "nan"),
    ("LC_SERVICE_MAX_DELAY", "inf"),
    ("LC_SERVICE_MAX_RETRIES", "-17"),
    ("LC_SERVICE_MAX_RETRIES", "2.75"),
    ("LC_SERVICE_DEADLINE_SECONDS", "0"),
    ("LC_SERVICE_DEADLINE_SECONDS", "inf"),
    ("OPENAI_BASE_URL", "localhost:8080/v1"),
    ("OPENAI_BASE_URL", "zanzibar"),
    ("LC_SERVICE_BASE_URL", "ftp://zanzibar"),
    ("OPENAI_API_KEY", "sk-zan\nzibar"),
    ("OPENAI_API_KEY", "sk-zanzib\u00e4r"),
    ("OPENAI_API_KEY", "sk-zan zibar"),
]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_a_bad_variable_is_named_and_its_value_is_not_shown(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, sim: Simulator
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", sim.base_url)
    if "BASE_URL" in name:
        monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as caught:
        OpenAIService()
    printed = "".join(traceback.format_exception(caught.value))
    if value not in ("0", "inf", "nan"):
        assert value not in printed
        assert repr(value)[1:-1] not in printed
    assert KEY not in printed
    assert sim.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 7.25), ("timeout_seconds", -3.25), ("base_url", "zanzibar"), ("model", ""),
     ("embedding_model", ""), ("api_key", "sk-zan\nzibar")],
)  # fmt: skip
def test_a_bad_argument_is_named_and_its_value_is_not_shown(name: str, value: Any, sim: Simulator) -> None:
    options = {"api_key": KEY, "base_url": sim.base_url} | {name: value}
    with pytest.raises(ConfigurationError, match=f"the argument {name}") as caught:
        OpenAIService(**options)
    if value:
        assert str(value) not in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_the_whitespace_around_a_key_is_no_part_of_it(sim: Simulator) -> None:
    """A key that was read from a file ends in a newline; no header can."""
    make_service(sim, api_key=f" {KEY}\n").chat_completion("Hello")
    assert sim.requests[-1].status == 200


def test_settings_are_frozen() -> None:
    settings = ServiceSettings.load(api_key=KEY)
    with pytest.raises(ValueError, match="frozen"):
        settings.model = "other"  # type: ignore[misc]


def test_load_refuses_an_argument_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="modell"):
        ServiceSettings.load(modell="gpt-4.1")


def test_the_default_model_is_current_and_small() -> None:
    name = ServiceSettings.load().model
    profile = _PROFILES[name]
    assert "mini" in name
    assert profile.get("status") != "deprecated"
    assert profile["tool_calling"]
    assert profile["structured_output"]
    assert profile["text_inputs"]
    assert profile["text_outputs"]
    newer = [
        other
        for other, data in _PROFILES.items()
        if other.endswith("-mini")
        and data.get("tool_calling")
        and data.get("release_date", "") > profile["release_date"]
    ]
    assert newer == []


def test_the_default_embedding_model_is_known_and_small() -> None:
    assert "small" in ServiceSettings.load().embedding_model
    assert ServiceSettings.load().embedding_model in _PROFILES


# --- what it never says -----------------------------------------------------------------------------------


def test_no_form_of_a_service_or_its_settings_shows_the_key(service: OpenAIService) -> None:
    settings = ServiceSettings.load(api_key=KEY)
    service.chat_completion("Hello")
    for shown in (service, settings, service.chat_model, service.embeddings, service.usage):
        assert KEY not in repr(shown)
        assert KEY not in str(shown)
    assert KEY not in str(settings.model_dump())
    assert KEY not in settings.model_dump_json()
    assert repr(service).startswith("OpenAIService(model='gpt-4.1-mini', usage=UsageReport(calls=1,")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_wrong_key_is_one_request_and_shows_nowhere(
    is_async: bool, sim: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = "sk-WRONG-DISTINCTIVE-9876543210-zyxwvut"
    service = make_service(sim, api_key=wrong)

    async def achat() -> None:
        await service.achat_completion(SECRET_PROMPT)

    with caplog.at_level(logging.DEBUG, "lc_service"), pytest.raises(openai.AuthenticationError) as caught:
        asyncio.run(achat()) if is_async else service.chat_completion(SECRET_PROMPT)
    assert [request.status for request in sim.requests] == [401]
    assert classify(caught.value).kind is ErrorKind.AUTHENTICATION
    printed = "".join(traceback.format_exception(caught.value))
    for text in (printed, caplog.text, repr(caught.value)):
        assert wrong not in text
        assert SECRET_PROMPT not in text
    assert "chat completion failed" in caplog.text
    assert "HTTP 401" in caplog.text


def test_prompts_answers_and_keys_stay_out_of_our_logs(
    shaky_sim: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(shaky_sim)

    async def use_async() -> None:
        await service.achat_completion(SECRET_PROMPT)
        assert [piece async for piece in service.astream_chat(SECRET_PROMPT)]
        await service.aembed([SECRET_PROMPT + " too"])

    # not the root: the SDK and aiohttp write what they like at DEBUG
    with caplog.at_level(logging.DEBUG, "lc_service"):
        service.chat_completion(SECRET_PROMPT)
        list(service.stream_chat(SECRET_PROMPT))
        service.embed([SECRET_PROMPT])
        asyncio.run(use_async())
        with pytest.raises(ValueError, match="not understood"):
            service.chat_completion([{"role": SECRET_PROMPT, "content": SECRET_PROMPT}])
    ours = [record for record in caplog.records if record.name.startswith("lc_service")]
    text = "\n".join(logging.Formatter().format(record) for record in ours)
    assert text.count("Retry 1 of 5") == 6
    assert text.count("finished in") == 6
    for secret in (KEY, SECRET_PROMPT, "harbour", "simulated answer"):
        assert secret not in text


def test_a_failure_is_logged_by_its_kind_and_request_id(caplog: pytest.LogCaptureFixture) -> None:
    with Simulator(faults=["context_length"] * 2) as simulator, caplog.at_level(logging.INFO, "lc_service"):
        service = make_service(simulator)
        with pytest.raises(openai.BadRequestError):
            service.chat_completion(SECRET_PROMPT)
        with pytest.raises(openai.BadRequestError):
            list(service.stream_chat(SECRET_PROMPT))
    failures = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert failures[0].startswith("chat completion failed after")
    assert "context_overflow" in failures[0]
    assert "req_000001" in failures[0]
    assert failures[1].startswith("chat stream failed after")
    assert all(record.exc_info is None for record in caplog.records)


# --- what it sends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_the_service", "of_the_call", "sent"),
    [(None, None, 0.7), (0.2, None, 0.2), (0.0, None, 0.0), (0.2, 1.5, 1.5), (None, 0.0, 0.0)],
)
def test_the_nearest_temperature_is_sent(
    of_the_service: float | None, of_the_call: float | None, sent: float, sim: Simulator
) -> None:
    service = make_service(sim, temperature=of_the_service)
    service.chat_completion("Hello", of_the_call)
    assert body(sim)["temperature"] == sent
    list(service.stream_chat("Hello", temperature=of_the_call))
    assert body(sim)["temperature"] == sent
    service.chat_model.invoke("Hello")
    assert body(sim).get("temperature") == of_the_service


def test_the_default_models_chains_get_the_services_temperature_too(sim: Simulator) -> None:
    """ChatOpenAI's constructor drops it for every gpt-5; the profile says who takes it."""
    service = make_service(sim, model=None, temperature=0.2)
    assert _PROFILES[service.chat_model.model_name]["temperature"] is True
    service.chat_completion("Hello")
    assert body(sim)["temperature"] == 0.2
    service.chat_model.invoke("Hello")
    assert body(sim)["temperature"] == 0.2


@pytest.mark.parametrize(
    "model", [n for n in ("gpt-5-mini", "o3", "o4-mini") if not _PROFILES[n]["temperature"]]
)
def test_no_temperature_is_sent_to_models_that_take_none(model: str, sim: Simulator) -> None:
    service = make_service(sim, model=model, temperature=0.3)
    service.chat_completion("Hello", temperature=0.2)
    assert "temperature" not in body(sim)
    list(service.stream_chat("Hello", temperature=0.2))
    assert "temperature" not in body(sim)
    service.chat_model.invoke("Hello")
    assert "temperature" not in body(sim)


def test_an_unknown_model_gets_a_temperature(sim: Simulator) -> None:
    service = make_service(sim, model="house-model")
    assert service.chat_completion("Hello")["content"]
    assert body(sim)["temperature"] == 0.7


def test_max_tokens_is_sent_and_limits_the_answer(service: OpenAIService, sim: Simulator) -> None:
    assert service.chat_completion("Hello", max_tokens=3)["usage"]["completion_tokens"] == 3
    asked = body(sim)
    assert asked.get("max_completion_tokens", asked.get("max_tokens")) == 3
    assert len(list(service.stream_chat("Hello", max_tokens=3))) == 3
    service.chat_completion("Hello")
    assert not {"max_completion_tokens", "max_tokens"} & body(sim).keys()


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        ("Hello", [("user", "Hello")]),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
         [("system", "Be brief."), ("user", "Hello")]),
        ([SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("Bye")],
         [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye")]),
        ([("system", "Be brief."), ("human", "Hello")], [("system", "Be brief."), ("user", "Hello")]),
        ((HumanMessage("Hello"),), [("user", "Hello")]),
        (["Hello", ("ai", "Hi"), {"role": "user", "content": "Bye"}],
         [("user", "Hello"), ("assistant", "Hi"), ("user", "Bye")]),
    ],
    ids=["string", "dictionaries", "LangChain", "pairs", "tuple", "mixed"],
)  # fmt: skip
def test_messages_are_understood_in_every_form(
    messages: Any, sent: list[tuple[str, str]], service: OpenAIService, sim: Simulator
) -> None:
    service.chat_completion(messages)
    assert [(message["role"], message["content"]) for message in body(sim)["messages"]] == sent


@pytest.mark.parametrize(
    "messages",
    [[], (), None, 5, b"Zanzibar", [5], [None], [{"content": "Zanzibar"}], [{"role": "user"}],
     [{"role": "zanzibar", "content": "Zanzibar"}], {"role": "user", "content": "Zanzibar"},
     HumanMessage("Zanzibar"), [("user", "Zanzibar", "x")]],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("method", ["chat_completion", "stream_chat", "astream_chat"])
def test_bad_messages_are_refused_before_anything_is_sent(
    method: str, messages: Any, service: OpenAIService, sim: Simulator
) -> None:
    with pytest.raises(ValueError, match="messages is") as caught:
        getattr(service, method)(messages)
    assert "anzibar" not in "".join(traceback.format_exception_only(caught.value))
    assert sim.requests == []


@pytest.mark.parametrize(
    ("options", "named"),
    [({"temperature": 2.1}, "temperature"), ({"temperature": -0.1}, "temperature"),
     ({"temperature": float("nan")}, "temperature"), ({"max_tokens": 0}, "max_tokens"),
     ({"max_tokens": -5}, "max_tokens")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_before_anything_is_sent(
    options: dict[str, Any], named: str, service: OpenAIService, sim: Simulator
) -> None:
    for method in (service.chat_completion, service.stream_chat, service.astream_chat):
        with pytest.raises(ValueError, match=named):
            method("Hello", **options)
    with pytest.raises(ValueError, match=named):
        asyncio.run(service.achat_completion("Hello", **options))
    assert sim.requests == []


# --- when the server fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_killed_server_is_a_connection_error_after_the_retries(is_async: bool, fake_clock: Any) -> None:
    policy = RetryWithExponentialBackoff(1.0, 60.0, 3, jitter="none")

    async def chat_until_killed() -> None:
        assert (await service.achat_completion("Hello"))["content"]
        simulator.stop()
        with pytest.raises(openai.APIConnectionError) as caught:
            await service.achat_completion("Hello again")
        errors.append(caught.value)

    errors: list[openai.APIConnectionError] = []
    with Simulator() as simulator:
        service = make_service(simulator, retry=policy)
        if is_async:
            asyncio.run(chat_until_killed())
        else:
            service.chat_completion("Hello")
            simulator.stop()
            with pytest.raises(openai.APIConnectionError) as caught:
                service.chat_completion("Hello again")
            errors.append(caught.value)
    assert fake_clock.waits == [1, 2, 4]
    assert classify(errors[0]).kind is ErrorKind.CONNECTION
    assert "4 attempts" in errors[0].__notes__[0]
    assert service.usage.calls == 2


@pytest.mark.parametrize(
    ("kind", "error", "verdict"),
    [
        ("insufficient_quota", openai.RateLimitError, ErrorKind.QUOTA_EXHAUSTED),
        ("context_length", openai.BadRequestError, ErrorKind.CONTEXT_OVERFLOW),
        ("not_found", openai.NotFoundError, ErrorKind.NOT_FOUND),
        ("forbidden", openai.PermissionDeniedError, ErrorKind.PERMISSION),
    ],
)
def test_what_cannot_succeed_is_asked_once(
    kind: str, error: type[Exception], verdict: ErrorKind, fake_clock: Any
) -> None:
    with Simulator(faults=[kind]) as simulator:
        with pytest.raises(error) as caught:
            make_service(simulator).chat_completion("Hello")
        assert len(simulator.requests) == 1
    assert classify(caught.value).kind is verdict
    assert not classify(caught.value).is_transient
    assert fake_clock.waits == []


# --- shared -----------------------------------------------------------------------------------------------


def test_eight_threads_share_a_service(shaky_sim: Simulator) -> None:
    service = make_service(shaky_sim)
    start, failures = threading.Barrier(8), []

    def work(number: int) -> None:
        start.wait()
        try:
            for i in range(5):
                question = f"Question {number}-{i}?"
                assert question in service.chat_completion(question)["content"]
            service.embed([f"text {number}"])
            assert list(service.stream_chat(f"Stream {number}?"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert service.usage.total == billed(shaky_sim)
    assert service.usage.calls == shaky_sim.bill.requests == 8 * 7


def test_sixty_four_tasks_share_a_service(shaky_sim: Simulator) -> None:
    service = make_service(shaky_sim)

    async def work(number: int) -> None:
        question = f"Question {number}?"
        assert question in (await service.achat_completion(question))["content"]
        if number % 4 == 0:
            await service.aembed([f"text {number}"])
            assert [piece async for piece in service.astream_chat(f"Stream {number}?")]

    async def main() -> None:
        await asyncio.gather(*map(work, range(64)))

    asyncio.run(main())
    assert service.usage.total == billed(shaky_sim)
    assert service.usage.calls == shaky_sim.bill.requests == 64 + 2 * 16


def test_two_services_count_for_themselves(sim: Simulator) -> None:
    one, two = make_service(sim), make_service(sim)
    one.chat_completion("Hello")
    one.embed(["the sea"])
    assert (one.usage.calls, two.usage.calls) == (2, 0)
    two.chat_completion("Hello")
    assert one.usage.total + two.usage.total == billed(sim)


def test_the_services_models_can_be_pickled():
    with Simulator() as simulator:
        service = OpenAIService("sk-x", base_url=simulator.base_url)
        assert pickle.loads(pickle.dumps(service.chat_model)).invoke("Hello").text
        assert pickle.loads(pickle.dumps(service.embeddings)).embed_query("Hello")


@pytest.mark.parametrize(
    ("model", "is_sent"),
    [("o3-mini-2025-01-31", False), ("ft:gpt-5-mini:org", False), ("my-llama", True), ("gpt-4.1-mini", True)],
)
def test_the_default_temperature_goes_to_models_that_take_one(model, is_sent):
    with Simulator() as simulator:
        OpenAIService("sk-x", model, base_url=simulator.base_url).chat_completion("Hello")
        assert (b"temperature" in simulator.requests[0].body) is is_sent


def test_a_dotenv_file_that_is_no_text_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"OPENAI_API_KEY=\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        OpenAIService()


def test_how_it_meets_slow_and_dead_endpoints_is_its_models(sim):
    plain = make_service(sim)
    assert plain.chat_model.circuit_breaker == plain.embeddings.circuit_breaker == CircuitBreaker()
    assert plain.chat_model.hedge is None
    breaker, hedge = CircuitBreaker(failures=3), Hedge(after=0.5)
    service = make_service(sim, circuit_breaker=breaker, hedge=hedge)
    assert service.chat_model.circuit_breaker is service.embeddings.circuit_breaker is breaker
    assert service.chat_model.hedge is hedge
    assert make_service(sim, circuit_breaker=None).embeddings.circuit_breaker is None
