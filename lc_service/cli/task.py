"""A chain that comes along, as the command line sees it: what it takes, and how it is made.

Everything is read off the package `chains`: inputs, descriptions, options. Nothing is called and nothing
paid for here; whatever a user gives is held against it before anything is.
"""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lc_service.cli.given import Choices, json_or_text, read_pairs, wrong_settings
from lc_service.cli.options import CommandError

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.runnables import Runnable

    from lc_service.service import OpenAIService

_PACKAGE = "chains"
_TEXT = "text"
_INPUT_OF_FILES = {"ask": "context", "critique_and_revise": "draft", "chat": None, "route": None}
"""Which input a file is; elsewhere its text."""
_DOCUMENTS = "answer_with_sources"
_ONLY_IN_PYTHON = {
    "chat": "it needs a conversation: use lc-service chat, or build_chat_chain in Python",
    "route": "it needs chains to choose from: use build_route_chain in Python",
}
_GIVES = {
    "answer_with_sources": "an answer and its citations, as JSON",
    "chat": "a message",
    "classify": "a label and its confidence, as JSON",
    "extract": "an object of your schema, as JSON",
    "route": "what the chosen chain gives",
}
"""What is no text."""
_NOT_SETTINGS = frozenset({
    "model", "labels", "schema", "several", "examples", "retriever", "documents", "embeddings",
    "critic", "routes", "default",
})  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One chain.

    Attributes:
        name: The task, such as `summarize`.
    """

    name: str

    @property
    def _factory(self) -> Callable[..., Runnable[Any, Any]]:
        factory: Callable[..., Runnable[Any, Any]] = getattr(_chains(), f"build_{self.name}_chain")
        return factory

    @property
    def summary(self) -> str:
        """What the chain does, in a sentence."""
        first = (inspect.getdoc(self._factory) or "").split("\n\n")[0]
        words = re.sub(r"\s+", " ", first.removeprefix("Build a chain that ")).replace("`", "")
        return words[:1].upper() + words[1:]

    @property
    def version(self) -> str:
        """The version of its prompts."""
        return str(importlib.import_module(f"{_PACKAGE}.{self.name}").PROMPT_VERSION)

    @property
    def gives(self) -> str:
        """What comes out, in words."""
        return _GIVES.get(self.name, "text")

    @property
    def files_are(self) -> str | None:
        """The input that a file is; None where files are no input."""
        return None if self.name == _DOCUMENTS else _INPUT_OF_FILES.get(self.name, _TEXT)

    @property
    def takes_documents(self) -> bool:
        """Whether files are what it searches."""
        return self.name == _DOCUMENTS

    @property
    def why_not(self) -> str | None:
        """Why a command line cannot run it; None where it can."""
        return _ONLY_IN_PYTHON.get(self.name)

    @cached_property
    def inputs(self) -> Mapping[str, Mapping[str, Any]]:
        """The JSON schema of each input, by its name."""
        properties: Mapping[str, Mapping[str, Any]] = self._schema["properties"]
        return properties

    @property
    def required(self) -> Sequence[str]:
        """The inputs that have to be there."""
        return tuple(self._schema.get("required", ()))

    @cached_property
    def _adapter(self) -> Any:
        from pydantic import TypeAdapter

        words = [word.capitalize() for word in self.name.split("_")]
        # as the classes are named: AnswerWithSourcesInput, CritiqueAndReviseInput
        return TypeAdapter(getattr(_chains(), f"{''.join(words)}Input"))

    @cached_property
    def _schema(self) -> Mapping[str, Any]:
        schema: Mapping[str, Any] = self._adapter.json_schema()
        return schema

    def read_input(self, given: Sequence[str]) -> dict[str, Any]:
        """Read `name=value` pairs; a value that is no text is JSON.

        Raises:
            CommandError: A pair is none, or the chain has no such input.
        """
        values: dict[str, Any] = {}
        for name, value in read_pairs(given, "--input"):
            if name not in self.inputs:
                raise CommandError(f"{self.name} takes {', '.join(self.inputs)}; not {name!r}")
            values[name] = value if _may_be_text(self.inputs[name]) else json_or_text(value)
        return values

    def check(self, value: Mapping[str, Any], of: str) -> None:
        """Hold an input against what the chain takes.

        Args:
            value: The input.
            of: The file that it is of, or "".

        Raises:
            CommandError: It does not fit; no word of it is quoted.
        """
        from pydantic import ValidationError

        try:
            self._adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else self.name
            said = first["msg"].removeprefix("Value error, ")
            if first["type"] == "missing":
                said = f"give it with --input {name}=…"
                said += f", or name a file: its text is the {name}" if name == self.files_are else ""
            raise CommandError(f"{f'{of}: ' if of else ''}{name}: {said}") from error

    def read_settings(self, given: Sequence[str]) -> dict[str, Any]:
        """Read `name=value` pairs for the chain's factory; values are JSON where they can be.

        Raises:
            CommandError: A pair is none, or there is no such option.
        """
        known = [name for name in self._parameters() if name not in _NOT_SETTINGS]
        values: dict[str, Any] = {}
        for name, value in read_pairs(given, "--set"):
            if name not in known:
                has = f"has {', '.join(known)}" if known else "has no options"
                raise CommandError(f"{self.name} {has}; not {name!r}")
            values[name] = json_or_text(value)
        return values

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        parameters = dict(inspect.signature(self._factory).parameters)
        if self.takes_documents:
            parameters |= inspect.signature(_chains().build_index).parameters
        return parameters

    def check_choices(self, choices: Choices) -> None:
        """Hold the choices against what the chain needs.

        Raises:
            CommandError: One is missing, or it has no use for one.
        """
        needs_labels, needs_schema = self.name == "classify", self.name == "extract"
        if needs_labels and len(choices.labels) < 2:
            raise CommandError("classify needs labels to choose from: --label praise --label complaint …")
        if needs_schema and choices.schema is None:
            raise CommandError("extract needs to know what: --schema FILE.json, a JSON schema")
        for is_given, is_used, name in (
            (bool(choices.labels), needs_labels, "--label"),
            (choices.schema is not None, needs_schema, "--schema"),
            (choices.is_several, needs_labels or needs_schema, "--several"),
        ):
            if is_given and not is_used:
                raise CommandError(f"{self.name} has no use for {name}")

    def build(
        self, service: OpenAIService, choices: Choices, documents: Sequence[Document]
    ) -> Runnable[Any, Any]:
        """Make the chain; documents are embedded here.

        Raises:
            CommandError: An option has a wrong value.
        """
        settings = dict(choices.settings)
        positional: list[Any] = [service.chat_model]
        if choices.labels:
            has_meaning = any(choices.labels.values())
            positional.append(dict(choices.labels) if has_meaning else list(choices.labels))
            settings["several"] = choices.is_several
        if choices.schema is not None:
            positional.append(list[choices.schema] if choices.is_several else choices.schema)  # type: ignore[name-defined]  # known at run time
        with wrong_settings():
            if self.takes_documents:
                of_chain = inspect.signature(self._factory).parameters
                of_index = {name: settings.pop(name) for name in [*settings] if name not in of_chain}
                positional.append(_chains().build_index(documents, service.embeddings, **of_index))
            return self._factory(*positional, **settings)


def tasks() -> Mapping[str, Task]:
    """Return the chains that come along, by name."""
    found = [re.fullmatch("build_(.+)_chain", name) for name in _chains().__all__]
    return {match[1]: Task(match[1]) for match in found if match}


def task_named(name: str) -> Task:
    """Return a chain that the command line can run.

    Raises:
        CommandError: There is none of that name, or it needs more than words.
    """
    known = tasks()
    task = known.get(name.replace("-", "_"))
    if task is None:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "lc-service chains lists them"
        raise CommandError(f"there is no chain {name!r}; {hint}")
    if task.why_not:
        raise CommandError(f"{task.name} cannot be run from here: {task.why_not}")
    return task


def _chains() -> Any:
    return importlib.import_module(_PACKAGE)  # it knows nothing of this package, nor this of it


def _may_be_text(schema: Mapping[str, Any]) -> bool:
    return any(one.get("type") == "string" for one in (schema, *schema.get("anyOf", ())))
