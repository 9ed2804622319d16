"""Prompts are in `chains`, OpenAI's wire format in the models and the simulator, neither anywhere else.

Texts are looked for in the code, comments and docstrings left out. Who else has to know a word of the wire is
listed here with the reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Words that mean the wire and nothing else: `usage`, `messages` and `max_tokens` are LangChain's as well.
WIRE_WORDS = frozenset({
    "[DONE]", "accepted_prediction_tokens", "audio_tokens", "cached_tokens", "chat.completion",
    "chat.completion.chunk", "choices", "completion_tokens", "completion_tokens_details", "content_filter",
    "context_length_exceeded", "delta", "encoding_format", "finish_reason", "include_usage",
    "incomplete_details", "input_tokens_details", "insufficient_quota", "invalid_api_key",
    "invalid_request_error", "logprobs", "max_completion_tokens", "model_not_found",
    "output_tokens_details", "prompt_tokens", "prompt_tokens_details", "rate_limit_exceeded", "refusal",
    "rejected_prediction_tokens", "stream_options", "system_fingerprint", "tool_calls", "x-request-id",
})  # fmt: skip
WIRE_BEGINNINGS = (
    "x-ratelimit-", "retry-after", "/chat/completions", "/v1/", "response.completed", "response.failed",
)  # fmt: skip
SPEAK_THE_WIRE = ("lc_service/simulator/", "lc_service/models/")
KNOW_A_WORD_OF_IT = {
    "chains/answer.py": "why an answer ended, in LangChain's metadata, which has each provider's own word",
    "chains/confidence.py": "the probabilities in LangChain's metadata",
    "chains/form.py": "a refusal, and why an answer ended, in LangChain's metadata",
    "chains/window.py": "a turn's tool calls, which LangChain's trimming has no word for",
    "lc_service/accounting/prompt.py": "what of a message is sent, and so counted",
    "lc_service/accounting/reported.py": "why an answer ended, in LangChain's metadata",
    "lc_service/accounting/telemetry/call_span.py": "parameters that OpenTelemetry has attributes for",
    "lc_service/accounting/token_counter.py": "the dictionary of the original's get_stats",
    "lc_service/accounting/usage.py": "usage in every form that it comes in",
    "lc_service/agents/budget.py": "why an answer ended, where agents look for it",
    "lc_service/cli/simulate.py": "help of an option about headers",
    "lc_service/completion.py": "the dictionary of the original's chat_completion",
    "lc_service/limits/told.py": "what headers tell of a server's limits",
    "lc_service/retry/errors.py": "the request's id, for logs",
    "lc_service/retry/exceptions.py": "the API's error codes, each with its kind",
    "lc_service/retry/retry_after.py": "what headers tell of the wait",
}
# How a text begins that tells a model what to do.
_ORDER = re.compile(
    r"(You are|You will|Act as|Answer|Ask|Choose|Classify|Criticize|Extract|Judge|Read|Reply|Respond|Revise"
    r"|Rewrite|Sort|Summari[sz]e|Take notes|Translate|Update|Your \w+)\b(?=.{20})",
    re.DOTALL,
)
_MAKES_PROMPTS = re.compile(
    r"\b(ChatPromptTemplate|PromptTemplate|SystemMessage|HumanMessage|from_template|from_messages)\("
)


@cache
def modules(package: str) -> dict[str, ast.Module]:
    """Return the modules of a package by their paths in the repository."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def texts(tree: ast.Module) -> Iterator[str]:
    """Yield the string literals of a module that are no docstrings."""
    told = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)
        for statement in body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in told:
            if isinstance(node.value, bytes):
                yield node.value.decode("latin-1")
            elif isinstance(node.value, str):
                yield node.value


def wire_words(tree: ast.Module) -> set[str]:
    return {text for text in texts(tree) if text in WIRE_WORDS or text.lower().startswith(WIRE_BEGINNINGS)}


def wire_messages(tree: ast.Module) -> list[int]:
    """Return the lines at which a message or a request is written as the API takes it."""
    keys = [
        (node.lineno, {key.value for key in node.keys if isinstance(key, ast.Constant)})
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
    ]
    return [line for line, names in keys if {"role", "content"} <= names or {"model", "messages"} <= names]


def prompts(tree: ast.Module) -> list[str]:
    orders = [text for text in texts(tree) if _ORDER.match(text)]
    code = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return orders + [call for call in code if _MAKES_PROMPTS.match(call)]


@pytest.mark.parametrize("package", ["lc_service", "chains"])
def test_only_those_know_words_of_the_wire_who_have_a_reason(package: str):
    found = {path: words for path, tree in modules(package).items() if (words := wire_words(tree))}
    outside = {path: words for path, words in found.items() if not path.startswith(SPEAK_THE_WIRE)}
    listed = {path for path in KNOW_A_WORD_OF_IT if path.startswith(f"{package}/")}
    assert {path: words for path, words in outside.items() if path not in listed} == {}
    assert listed - outside.keys() == set()  # who knows none any more is taken off the list


def test_the_models_and_the_simulator_know_the_wire():
    words = {path: wire_words(tree) for path, tree in modules("lc_service").items()}
    assert {"finish_reason", "choices", "delta", "[DONE]"} <= set().union(
        *(found for path, found in words.items() if path.startswith("lc_service/simulator/"))
    )
    assert {"finish_reason", "choices"} <= set().union(
        *(found for path, found in words.items() if path.startswith("lc_service/models/"))
    )


@pytest.mark.parametrize("package", ["lc_service", "chains"])
def test_messages_are_written_as_the_api_takes_them_in_models_and_the_simulator_only(package: str):
    found = {path for path, tree in modules(package).items() if wire_messages(tree)}
    assert {path for path in found if not path.startswith(SPEAK_THE_WIRE)} == set()
    assert bool(found) == (package == "lc_service")


def test_there_is_no_prompt_outside_the_chains():
    assert {path: found for path, tree in modules("lc_service").items() if (found := prompts(tree))} == {}


def test_a_prompt_would_be_found():
    """Each module of `chains` that has prompts shows them to the same search, by their words as well."""
    with_prompts = {
        path: tree
        for path, tree in modules("chains").items()
        if re.search(r"^[A-Z_]*PROMPT(: \w+)? = ", ast.unparse(tree), re.MULTILINE)
    }
    assert len(with_prompts) >= 10
    assert [path for path, tree in with_prompts.items() if not prompts(tree)] == []
    by_words = [path for path, tree in with_prompts.items() if any(map(_ORDER.match, texts(tree)))]
    assert sorted(with_prompts.keys() - by_words) == []
