"""`ReliableChatOpenAI` before it is called: construction, copies, cache, serialised forms, secrets."""

from __future__ import annotations

import asyncio
import logging
import pickle
import subprocess
import sys
import traceback
from itertools import count

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps, load
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField
from langchain_openai import ChatOpenAI
from pydantic import ValidationError

from lc_service.models.chat import ReliableChatOpenAI
from lc_service.models.embeddings import ReliableOpenAIEmbeddings
from lc_service.retry.errors import ErrorKind, classify
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import Fault

POLICY = RetryWithExponentialBackoff(initial_delay=0.5, max_delay=8, max_retries=3, jitter="equal")


# Construction


def test_the_default_policy_is_the_policys_default(make_model):
    assert ReliableChatOpenAI(model="m", api_key="k").retry == RetryWithExponentialBackoff()


def test_max_retries_is_short_for_a_policy(make_model):
    model = make_model(max_retries=2)
    assert model.retry == RetryWithExponentialBackoff(max_retries=2)
    assert model.max_retries == 2


def test_the_sdks_own_retries_are_off(make_model):
    for options in ({}, {"max_retries": 4}, {"retry": POLICY}):
        model = make_model(**options)
        assert model.root_client.max_retries == model.root_async_client.max_retries == 0
        assert model.client._client.max_retries == model.async_client._client.max_retries == 0


@pytest.mark.parametrize("retry", [POLICY, RetryWithExponentialBackoff(max_retries=2)])
def test_max_retries_and_retry_together_are_refused(retry, make_model):
    with pytest.raises(ValidationError, match="either max_retries or retry, not both"):
        make_model(max_retries=2, retry=retry)


@pytest.mark.parametrize("options", [{"max_retries": -1}, {"retry": 3}, {"retry": None}])
def test_a_wrong_policy_is_refused(options, make_model):
    with pytest.raises(ValidationError):
        make_model(**options)


def test_no_timeout_means_the_sdks(make_model):
    model = make_model()
    assert model.root_client.timeout == model.root_async_client.timeout == openai.DEFAULT_TIMEOUT
    assert model.client._client.timeout == model.async_client._client.timeout == openai.DEFAULT_TIMEOUT


@pytest.mark.parametrize("timeout", [None, 3.0, openai.Timeout(9.0, connect=1.0)], ids=repr)
@pytest.mark.parametrize("name", ["timeout", "request_timeout"])
def test_a_timeout_that_was_given_holds(name, timeout, make_model):
    model = make_model(**{name: timeout})
    assert model.root_client.timeout == model.root_async_client.timeout == timeout


def test_stream_usage_is_on_and_can_be_switched_off(simulate, make_model):
    sim = simulate()
    chunks = list(make_model().stream("Hello"))
    assert sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata) == (
        sim.bill.total.total_tokens
    )
    without = make_model(stream_usage=False)
    assert not any(chunk.usage_metadata for chunk in without.stream("Hello"))
    assert b"stream_options" not in sim.requests[-1].body


def test_a_key_may_be_a_function(simulate, make_model):
    sim = simulate(api_key="sk-from-a-function")
    model = make_model(api_key=lambda: "sk-from-a-function")
    model.invoke("Hello")
    asyncio.run(model.ainvoke("Hello"))
    assert [request.status for request in sim.requests] == [200, 200]


def test_an_async_key_leaves_no_sync_client(simulate, make_model):
    sim = simulate(api_key="sk-from-a-coroutine")

    async def key() -> str:
        return "sk-from-a-coroutine"

    model = make_model(api_key=key)
    asyncio.run(model.ainvoke("Hello"))
    with pytest.raises(ValueError, match="Sync client"):
        model.invoke("Hello")
    assert len(sim.requests) == 1


# with_retry and copies


def test_with_retry_returns_the_same_class_with_another_policy(make_model):
    model = make_model(temperature=0.3)
    copy = model.with_retry(retry=POLICY)
    assert type(copy) is ReliableChatOpenAI
    assert copy is not model
    assert copy.retry is POLICY
    assert copy.temperature == 0.3
    assert model.retry is not POLICY


def test_with_retry_takes_langchains_arguments(make_model):
    copy = make_model(retry=POLICY).with_retry(
        retry_if_exception_type=(ValueError,),
        wait_exponential_jitter=False,
        exponential_jitter_params={"initial": 2, "max": 30, "exp_base": 3, "jitter": 1},
        stop_after_attempt=7,
    )
    assert copy.retry == RetryWithExponentialBackoff(
        2, 30, 6, multiplier=3, jitter="none", retry_on=(ValueError,)
    )
    assert copy.retry.quota is POLICY.quota


def test_with_retry_changes_only_what_it_is_told(make_model):
    model = make_model(retry=POLICY)
    assert model.with_retry().retry == POLICY
    assert model.with_retry(wait_exponential_jitter=True).retry == POLICY
    assert model.with_retry(stop_after_attempt=1).retry.max_retries == 0
    unjittered = model.with_retry(wait_exponential_jitter=False)
    assert unjittered.with_retry(wait_exponential_jitter=True).retry.jitter == "full"


def test_with_retry_refuses_both_and_nonsense(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="not both"):
        model.with_retry(retry=POLICY, stop_after_attempt=2)
    with pytest.raises(ValueError, match="max_retries"):
        model.with_retry(stop_after_attempt=0)
    with pytest.raises(ValueError, match="exp_base, not 'min'"):
        model.with_retry(exponential_jitter_params={"min": 2})
    with pytest.raises(TypeError):
        model.with_retry(attempts=2)


def test_with_retry_on_a_binding_keeps_its_tools(simulate, make_model):
    def get_weather(city: str) -> str:
        """Tell the weather in a city."""
        return city

    sim = simulate(faults=["server_error"] * 2)
    bound = make_model(max_retries=0).bind_tools([get_weather]).with_retry(
        retry=RetryWithExponentialBackoff(initial_delay=0.001, max_retries=2)
    )  # fmt: skip
    assert bound.invoke("get_weather in Rome").tool_calls[0]["name"] == "get_weather"
    assert len(sim.requests) == 3


def test_max_retries_follows_the_policy(make_model):
    model = make_model(max_retries=4)
    assert model.with_retry(stop_after_attempt=2).max_retries == 1
    assert model.with_retry(retry=POLICY).max_retries == POLICY.max_retries
    assert make_model(retry=POLICY).with_retry(stop_after_attempt=2).max_retries is None
    assert model.model_copy(update={"max_retries": 1}).retry.max_retries == 1


@pytest.mark.parametrize("options", [{}, {"max_retries": 4}, {"retry": POLICY}], ids=repr)
def test_a_configured_copy_keeps_the_policy(options, simulate, make_model):
    sim = simulate()
    model = make_model(**options)
    configurable = model.configurable_fields(temperature=ConfigurableField("heat"))
    copy = configurable._prepare({"configurable": {"heat": 0.7}})[0]
    assert type(copy) is ReliableChatOpenAI
    assert (copy.temperature, copy.retry, copy.max_retries) == (0.7, model.retry, model.max_retries)
    assert copy.retry.quota is model.retry.quota
    assert copy.root_client.timeout == copy.root_async_client.timeout == openai.DEFAULT_TIMEOUT
    configurable.with_config(configurable={"heat": 0.7}).invoke("Hello")
    asyncio.run(configurable.ainvoke("Hello", {"configurable": {"heat": 0.7}}))
    assert [b'"temperature":0.7' in request.body for request in sim.requests] == [True, True]


def test_max_retries_can_be_configured(simulate, make_model):
    sim = simulate(faults=["unavailable"] * 2)
    configurable = make_model(max_retries=4).configurable_fields(max_retries=ConfigurableField("tries"))
    with pytest.raises(openai.InternalServerError):
        configurable.invoke("Hello", {"configurable": {"tries": 0}})
    assert len(sim.requests) == 1


@pytest.mark.parametrize("cls", [ReliableChatOpenAI, ReliableOpenAIEmbeddings])
def test_a_key_that_cannot_be_a_header_is_refused_and_not_shown(cls):
    with pytest.raises(ValueError, match="line break") as caught:
        cls(model="m", api_key="sk-from-a-file\n")
    assert "sk-from" not in str(caught.value)


def test_a_header_that_http_refuses_is_not_quoted_and_not_retried(simulate, make_model):
    sim = simulate()
    model = make_model(default_headers={"x-token": "sk-secret\n"})
    with pytest.raises(openai.APIConnectionError) as caught:
        model.invoke("Hello")
    assert "sk-secret" not in "".join(traceback.format_exception(caught.value))
    assert classify(caught.value).kind is ErrorKind.CONFIGURATION
    assert len(sim.requests) == 0


# LangChain's cache


def test_a_cache_hit_sends_nothing(simulate, make_model):
    sim = simulate()
    model = make_model(cache=InMemoryCache())
    first = model.invoke("Hello")
    assert model.invoke("Hello").content == first.content
    assert asyncio.run(model.ainvoke("Hello")).content == first.content
    assert len(sim.requests) == 1


def test_a_changed_copy_does_not_hit_the_originals_entry(simulate, make_model):
    sim = simulate()
    model = make_model(cache=InMemoryCache(), temperature=0.1)
    model.invoke("Hello")
    model.model_copy(update={"temperature": 0.9}).invoke("Hello")
    assert len(sim.requests) == 2


def test_another_policy_hits_the_same_entry(simulate, make_model):
    sim = simulate()
    cache = InMemoryCache()
    make_model(cache=cache, retry=POLICY).invoke("Hello")
    make_model(cache=cache).with_retry(stop_after_attempt=2).invoke("Hello")
    assert len(sim.requests) == 1


def test_what_stock_chatopenai_cached_is_found(simulate, make_model):
    sim = simulate()
    cache = InMemoryCache()
    for extra in ({}, {"temperature": 0.2, "max_tokens": 50}):
        # stock switches stream_usage off for a base URL of one's own; with OpenAI's they agree
        make_model(ChatOpenAI, cache=cache, stream_usage=True, **extra).invoke("Hello")
        make_model(cache=cache, **extra).invoke("Hello")
    assert len(sim.requests) == 2


def test_a_failed_call_is_not_cached(simulate, make_model):
    sim = simulate(faults=["no_finish", "bad_request"])
    model = make_model(cache=InMemoryCache(), max_retries=0)
    for _ in range(2):
        with pytest.raises(Exception, match=r"finish_reason|400"):
            model.invoke("Hello")
    model.invoke("Hello")
    assert len(sim.requests) == 3


# Serialised forms


def test_the_policy_is_not_serialised(make_model):
    model = make_model(retry=POLICY, temperature=0.3)
    assert "retry" not in dumps(model)
    assert "retry" not in model.model_dump()
    assert dumpd(model) == dumpd(make_model(ChatOpenAI, temperature=0.3, stream_usage=True))


def test_what_was_dumped_loads_as_chatopenai(make_model, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-elsewhere")
    loaded = load(dumpd(make_model(temperature=0.3)), allowed_objects="all", secrets_from_env=True)
    assert isinstance(loaded, ChatOpenAI)
    assert loaded.temperature == 0.3


@pytest.mark.parametrize("is_used", [False, True])
def test_a_model_can_be_pickled(is_used, simulate, make_model):
    sim = simulate()
    model = make_model(retry=POLICY, temperature=0.3, timeout=7.0)
    if is_used:
        model.invoke("Hello")
        asyncio.run(model.ainvoke("Hello"))
    copy = pickle.loads(pickle.dumps(model))
    assert copy.retry == POLICY
    assert copy.retry.quota is not POLICY.quota
    assert (copy.temperature, copy.root_client.timeout, copy.root_async_client.timeout) == (0.3, 7.0, 7.0)
    assert copy.root_client.max_retries == copy.root_async_client.max_retries == 0
    before = len(sim.requests)
    assert "first" in copy.invoke("first").text
    assert "second" in asyncio.run(copy.ainvoke("second")).text
    assert len(sim.requests) == before + 2
    assert model.root_client is not None  # the original is whole


def test_a_pickled_models_timeout_is_still_the_default(make_model):
    copy = pickle.loads(pickle.dumps(make_model()))
    assert copy.root_client.timeout == copy.root_async_client.timeout == openai.DEFAULT_TIMEOUT
    endless = pickle.loads(pickle.dumps(make_model(timeout=None)))
    assert endless.root_client.timeout is None


def test_a_pickled_model_keeps_its_proxy(simulate, make_model, port, relay_to):
    simulate()
    proxy = relay_to(port)
    copy = pickle.loads(pickle.dumps(make_model(openai_proxy=proxy.url)))
    copy.invoke("sync")
    asyncio.run(copy.ainvoke("async"))
    assert len(proxy.first_lines) == 2
    copy.root_client.close()


def test_a_pickled_copy_has_its_own_cache_key(simulate, make_model):
    sim = simulate()
    cache = InMemoryCache()
    model = make_model(cache=cache, temperature=0.1)
    model.invoke("Hello")
    copy = pickle.loads(pickle.dumps(model.model_copy(update={"cache": None})))
    copy.cache = cache
    copy.invoke("Hello")
    assert len(sim.requests) == 1
    copy.model_copy(update={"temperature": 0.2}).invoke("Hello")
    assert len(sim.requests) == 2


def test_a_model_works_in_another_process(simulate, make_model):
    sim = simulate(faults=["rate_limit"])
    code = (
        "import asyncio, pickle, sys; model = pickle.load(sys.stdin.buffer);"
        "print(model.invoke('sync').text, asyncio.run(model.ainvoke('async')).text)"
    )
    run = subprocess.run(  # noqa: S603  the arguments are ours
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        input=pickle.dumps(make_model()), capture_output=True, check=True, timeout=50,
    )  # fmt: skip
    assert b"sync" in run.stdout
    assert b"async" in run.stdout
    assert len(sim.requests) == 3


# Secrets


def everything_in(error: BaseException) -> str:
    """The error as logs, consoles and trackers show it, with its whole chain."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is not None and link not in seen:
            seen.append(link)
            todo += [link.__cause__, link.__context__]
    words = [f"{link} {link!r} {link.args} {getattr(link, '__notes__', '')}" for link in seen]
    return "\n".join([*words, *traceback.format_exception(error)])


def test_a_key_is_never_shown(simulate, make_model, caplog, key):
    simulate(api_key="sk-another", faults=["rate_limit"])
    model = make_model(max_retries=2)
    shown = [repr(model), str(model), str(model.__dict__), dumps(model), str(model.model_dump())]
    with caplog.at_level(logging.DEBUG, logger="lc_service"):
        for call in (model.invoke, lambda text: asyncio.run(model.ainvoke(text))):
            with pytest.raises(openai.AuthenticationError) as caught:
                call("Hello")
            shown.append(everything_in(caught.value))
    assert key[-4:] in everything_in(caught.value)  # the server's own, starred-out form
    for text in (*shown, caplog.text):
        assert key not in text
        assert "DISTINCTIVE" not in text


def test_retries_are_logged_without_key_or_prompt(simulate, make_model, caplog, key):
    echoed = f"the prompt was: Hello, your key is {key}"
    simulate(faults=[Fault("rate_limit", message=echoed), Fault("server_error", message=echoed)])
    with caplog.at_level(logging.DEBUG, logger="lc_service"):
        make_model(max_retries=2).with_retry(exponential_jitter_params={"max": 0.01}).invoke("Hello")
    assert [record.levelname for record in caplog.records if record.name.startswith("lc_service")] == (
        ["WARNING"] * 2
    )
    assert "Retry 1 of 2" in caplog.text
    assert "Hello" not in caplog.text
    assert "DISTINCTIVE" not in caplog.text


def test_a_refused_construction_does_not_show_the_key(key):
    # pydantic shows both ends of the input: the key may be first or last
    for options in (
        {"max_retries": 1, "retry": POLICY},
        {"max_retries": -1},
        {"temperature": "hot"},
        {"n": 0},
    ):
        for given in ({"api_key": key} | options, options | {"api_key": key}):
            with pytest.raises(ValidationError) as caught:
                ReliableChatOpenAI(**given)
            assert key[:12] not in str(caught.value)
            assert key[-8:] not in str(caught.value)


def test_models_with_one_key_do_not_share_another(simulate, make_model):
    sim = simulate()
    numbers = count()
    models = [make_model(api_key=f"sk-{next(numbers)}-0123456789") for _ in range(3)]
    for model in models:
        model.invoke("Hello")
        asyncio.run(model.ainvoke("Hello"))
    assert len({request.authorization_masked for request in sim.requests}) == 3


def test_a_changed_field_changes_the_cache_key(make_model):
    model = make_model(temperature=0.1)
    before = model._get_llm_string()
    model.temperature = 0.9
    assert model._get_llm_string() != before


# Token counts


def test_tokens_are_counted_without_a_download_for_any_model(make_model):
    model = make_model(model="a-model-nobody-knows")
    assert 5 <= model.get_num_tokens("The lighthouse keeper climbs the stairs.") <= 12
    messages = [SystemMessage("Be brief."), HumanMessage("What is a lighthouse?")]
    plain = model.get_num_tokens_from_messages(messages)
    assert plain > model.get_num_tokens("Be brief.What is a lighthouse?")

    def get_weather(city: str) -> str:
        """Tell the weather in a city."""
        return city

    assert model.get_num_tokens_from_messages(messages, tools=[get_weather]) > plain + 10


def test_a_tokenizer_of_the_callers_own_is_used(make_model):
    model = make_model(custom_get_token_ids=lambda text: [ord(character) for character in text])
    assert model.get_num_tokens("abc") == 3
