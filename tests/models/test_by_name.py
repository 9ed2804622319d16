"""A chat model by its name: the class, the name, and what is refused."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from lc_service import init_chat_model
from lc_service.models import by_name
from lc_service.models.azure import ReliableAzureChatOpenAI
from lc_service.models.chat import ReliableChatOpenAI

AZURE = {"azure_endpoint": "http://127.0.0.1:9", "azure_deployment": "house", "api_version": "2024-10-21"}


@pytest.mark.parametrize(
    ("model", "options", "name"),
    [
        ("openai:gpt-4.1-mini", {}, "gpt-4.1-mini"),
        ("gpt-4.1-mini", {"temperature": 0.5}, "gpt-4.1-mini"),
        ("ft:gpt-4.1-mini:org::1", {}, "ft:gpt-4.1-mini:org::1"),
        ("openai:ft:gpt-4.1-mini:org::1", {}, "ft:gpt-4.1-mini:org::1"),
        ("llama3:8b", {"model_provider": "openai", "base_url": "http://127.0.0.1:9/v1"}, "llama3:8b"),
    ],
)
def test_openais_name_makes_a_reliable_model(model: str, options: Any, name: str) -> None:
    made = init_chat_model(model, api_key="sk-test", **options)
    assert type(made) is ReliableChatOpenAI
    assert made.model_name == name
    assert made.temperature == options.get("temperature")


@pytest.mark.parametrize(
    ("model", "provider"), [("azure_openai:gpt-4.1-mini", None), ("gpt-4.1-mini", "azure-openai")]
)
def test_azures_name_makes_azures(model: str, provider: Any) -> None:
    made = init_chat_model(model, model_provider=provider, api_key="key", **AZURE)
    assert type(made) is ReliableAzureChatOpenAI
    assert (made.model_name, made.deployment_name) == ("gpt-4.1-mini", "house")


def test_langchains_function_takes_the_same_names() -> None:
    from langchain.chat_models import init_chat_model as stock

    for model, options in (("openai:gpt-4.1-mini", {}), ("azure_openai:gpt-4.1-mini", AZURE)):
        ours, theirs = (make(model, api_key="sk-test", **options) for make in (init_chat_model, stock))
        assert isinstance(ours, type(theirs))
        assert ours.model_name == theirs.model_name


@pytest.mark.parametrize("model", ["anthropic:claude", "llama3:8b"])
def test_another_provider_is_refused_by_name(model: str) -> None:
    with pytest.raises(ValueError, match=model.partition(":")[0]):
        init_chat_model(model, api_key="sk-test")


def test_what_it_makes_calls_counts_and_is_configured(simulate: Any, port: int) -> None:
    from langchain_core.runnables import ConfigurableField

    sim = simulate()
    made = init_chat_model("openai:gpt-4.1-mini", api_key="k", base_url=f"http://127.0.0.1:{port}/v1")
    chosen = made.configurable_fields(model_name=ConfigurableField(id="model"))
    assert chosen.invoke("Hello", {"configurable": {"model": "gpt-4.1-nano"}}).text
    assert sim.bill.by("gpt-4.1-nano").requests == 1


def test_the_docstrings_example_runs() -> None:
    assert doctest.testmod(by_name) == doctest.TestResults(failed=0, attempted=1)
