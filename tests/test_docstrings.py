"""Docstrings of public names, as far as a machine can tell: complete, true to the code, in Google's form.

That a text is good is not tested; that each parameter, field and error is told of, and nothing else, is.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, is_typeddict

import pytest
from pydantic import BaseModel

PUBLIC = ("lc_service", "chains", "lc_service.agents", "lc_service.simulator", "lc_service.data")
SECTIONS = ("Args", "Attributes", "Keys", "Returns", "Yields", "Raises", "Example")
OURS = ("lc_service.", "chains.")
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):$", re.MULTILINE)
_ENTRY = re.compile(r"^    (\*{0,2}[\w.]+(?:, [\w.]+)*):(?= |$)", re.MULTILINE)
# a second unit in the text of what has one in its name
_OTHER_UNITS = {
    "_seconds": r"\b(milliseconds?|ms|(minutes?|hours?)(?!'))\b",
    "_tokens": r"\b(characters|words|bytes)\b",
    "_usd": r"\b(cents?|EUR)\b",
    "_characters": r"\b(tokens|words|bytes)\b",
}


def is_ours(thing: Any) -> bool:
    return (getattr(thing, "__module__", None) or "").startswith(OURS)


class Doc:
    """A docstring taken apart."""

    def __init__(self, text: str | None) -> None:
        self.text = inspect.cleandoc(text or "")
        pieces = _SECTION.split(self.text)
        self.prose = pieces[0]
        self.sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))

    def entries(self, *sections: str) -> dict[str, str]:
        """Return the names of the sections with what is said of each."""
        found: dict[str, str] = {}
        for section in sections:
            pieces = _ENTRY.split(self.sections.get(section, ""))
            for names, text in zip(pieces[1::2], pieces[2::2], strict=True):
                found |= dict.fromkeys((name.lstrip("*") for name in names.split(", ")), text)
        return found

    def tells_of(self, name: str) -> bool:
        in_text = re.search(rf"`{name}\b|`[\w.]*\b{name}=", self.prose + self.sections.get("Returns", ""))
        return name in self.entries("Args", "Attributes", "Keys") or in_text is not None


class Item:
    """A public class, function, method or property, and where it is documented."""

    def __init__(self, name: str, thing: Any, owner: type | None = None) -> None:
        self.name, self.thing, self.owner = name, thing, owner

    @cached_property
    def doc(self) -> Doc:
        return Doc(self.thing.__doc__)

    @property
    def source(self) -> Any:
        """The function whose parameters these are: of a class, the constructor it has itself."""
        thing = self.thing
        if isinstance(thing, property):
            return thing.fget
        if inspect.isclass(thing):
            own = next((each for each in thing.__mro__ if "__init__" in vars(each)), None)
            is_own = own is thing or (own is not None and not issubclass(thing, Exception))
            is_written = own is not None and is_ours(own) and not dataclasses.is_dataclass(own)
            return own.__init__ if is_own and is_written else None
        return inspect.unwrap(getattr(thing, "__func__", thing))

    def parameters(self) -> list[str]:
        thing = self.thing
        if inspect.isclass(thing):
            fields = own_fields(thing)
            if fields:
                return fields
        if self.source is None or isinstance(thing, property):
            return []
        names = inspect.signature(self.source).parameters
        return [
            name
            for name, parameter in names.items()
            if name not in {"self", "cls"}
            and not (name == "message" and inspect.isclass(thing) and issubclass(thing, Exception))
            and not name.startswith("_")
            and parameter.kind is not parameter.VAR_POSITIONAL
        ]

    def is_told_elsewhere(self) -> bool:
        """Tell whether the docstring sends to another method for the rest, or LangChain's documents it."""
        if inspect.isclass(self.thing):
            return "those of `" in self.doc.prose
        if re.search(r"\bas `\w|\bAs LangChain's", self.doc.prose):
            return True
        name = self.name.rpartition(".")[2]
        bases = self.owner.__mro__ if self.owner is not None else ()
        return any(name in vars(base) for base in bases if not is_ours(base))

    def raised(self) -> set[str]:
        """Return the names of the exceptions that its own code raises."""
        codes = [self.source]
        if dataclasses.is_dataclass(self.thing):
            codes.append(vars(self.thing).get("__post_init__"))
        return {name for code in codes if code is not None and is_ours(code) for name in raised_by(code)}


def own_fields(cls: type) -> list[str]:
    """Return the public fields of a dataclass, typed dictionary or pydantic model, without LangChain's."""
    if dataclasses.is_dataclass(cls):
        return [each.name for each in dataclasses.fields(cls) if not each.name.startswith("_")]
    if is_typeddict(cls):
        return list(cls.__annotations__)
    if issubclass(cls, BaseModel):
        ours = [vars(base).get("__annotations__", {}) for base in cls.__mro__ if is_ours(base)]
        return [name for name in cls.model_fields if any(name in each for each in ours)]
    return []


def raised_by(code: Any) -> Iterator[str]:
    """Yield the names in `raise Name(...)`, nested functions left out."""
    nodes: list[ast.AST] = list(ast.parse(textwrap.dedent(inspect.getsource(code))).body[0].body)  # type: ignore[attr-defined]
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func)
            if name.rpartition(".")[2][0].isupper():  # else a function that makes one
                yield name
        nodes.extend(ast.iter_child_nodes(node))


def assigned_by(cls: type) -> set[str]:
    """Return the public attributes that a class's own constructor sets."""
    constructor = vars(cls).get("__init__")
    if not inspect.isfunction(constructor) or dataclasses.is_dataclass(cls):
        return set()
    found = re.findall(r"^\s+self\.([a-z]\w*)(?:: [^=]+)? = ", inspect.getsource(constructor), re.MULTILINE)
    return set(found)


def members(name: str, cls: type) -> Iterator[Item]:
    seen = set()
    for base in cls.__mro__:
        if not is_ours(base):
            continue
        for member, value in vars(base).items():
            code = value.func if isinstance(value, cached_property) else value
            is_code = inspect.isfunction(code) or isinstance(code, (property, classmethod, staticmethod))
            item = Item(f"{name}.{member}", code, cls)
            # what pydantic puts into a class is not ours
            if is_code and not member.startswith("_") and member not in seen and is_ours(item.source):
                seen.add(member)
                yield item


def walk(module_name: str) -> Iterator[Item]:
    module = importlib.import_module(module_name)
    for name in module.__all__:
        thing = getattr(module, name)
        yield Item(f"{module_name}.{name}", thing)
        if inspect.isclass(thing):
            yield from members(f"{module_name}.{name}", thing)


def no_sentence(item: Item) -> Iterator[str]:
    summary = item.doc.text.partition("\n")[0] or "-"
    if not (summary[0].isupper() or summary[0] in "`%") or item.doc.prose.strip()[-1:] not in tuple(".:)`|"):
        yield summary
    if inspect.isclass(item.thing) and item.thing.__doc__ == item.thing.__mro__[1].__doc__:
        yield "the docstring of the class before it"


def untold_parameters(item: Item) -> Iterator[str]:
    if item.is_told_elsewhere():
        return
    fields = getattr(item.thing, "model_fields", {})
    described = {name for name, field in fields.items() if field.description}
    yield from (name for name in item.parameters() if name not in described and not item.doc.tells_of(name))


def parameters_that_are_not_there(item: Item) -> Iterator[str]:
    there = set(item.parameters())
    if item.source is not None:
        there |= set(inspect.signature(item.source).parameters)
    if inspect.isclass(item.thing):
        there |= set(dir(item.thing)) | set(getattr(item.thing, "model_fields", ()))
    yield from (name for name in item.doc.entries("Args", "Keys") if name not in there)


def untold_attributes(item: Item) -> Iterator[str]:
    if inspect.isclass(item.thing):
        for name in sorted(assigned_by(item.thing)):
            if not item.doc.tells_of(name) and not hasattr(item.thing, name):
                yield name


def attributes_that_are_not_there(item: Item) -> Iterator[str]:
    if inspect.isclass(item.thing):
        assigned = {name for base in item.thing.__mro__ for name in assigned_by(base)}
        there = assigned | set(own_fields(item.thing)) | set(dir(item.thing))
        yield from (name for name in item.doc.entries("Attributes") if name not in there)


def errors_that_are_none(item: Item) -> Iterator[str]:
    ours = [module for name, module in sys.modules.items() if f"{name}.".startswith(OURS)]
    places = [vars(builtins), *map(vars, ours)]
    for name in item.doc.entries("Raises"):
        first, _, rest = name.partition(".")
        error = next((place[first] for place in places if first in place), None)
        for part in rest.split(".") if rest else ():
            error = getattr(error or importlib.import_module(first), part, None)
        if not (inspect.isclass(error) and issubclass(error, BaseException)):
            yield name


def untold_errors(item: Item) -> Iterator[str]:
    if not item.is_told_elsewhere():
        told = item.doc.entries("Raises")
        yield from (name for name in sorted(item.raised()) if name not in told)


def other_units(item: Item) -> Iterator[str]:
    for name, text in item.doc.entries("Args", "Attributes", "Keys").items():
        if any(name.endswith(suffix) and re.search(others, text) for suffix, others in _OTHER_UNITS.items()):
            yield name
        if re.search(r"(^|_)(delay|timeout|wait|interval)$", name) and "second" not in text.lower():
            yield f"{name} has no unit"


CHECKS = (
    no_sentence,
    untold_parameters,
    parameters_that_are_not_there,
    untold_attributes,
    attributes_that_are_not_there,
    errors_that_are_none,
    untold_errors,
    other_units,
)
Check = Callable[[Item], Iterator[str]]


@pytest.mark.parametrize("module", PUBLIC)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_public_name_has_a_docstring_that_tells_of_all_and_of_nothing_else(check: Check, module: str):
    found = {item.name: list(check(item)) for item in walk(module)}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_the_walk_meets_all_kinds_of_public_names():
    assert {
        "lc_service.OpenAIService",
        "lc_service.OpenAIService.embeddings",
        "lc_service.ReliableChatOpenAI.with_retry",
        "lc_service.UsageReport.group_by",
        "lc_service.track_usage",
        "lc_service.TokenUsage.read",
        "chains.build_ask_chain",
        "lc_service.agents.BudgetMiddleware",
        "lc_service.simulator.Simulator.bill",
        "lc_service.data.load_documents",
    } <= {item.name for module in PUBLIC for item in walk(module)}


def _bad(first: int, wait: float, length_tokens: int) -> None:
    """do it.

    Args:
        wait: How long.
        length_tokens: In bytes.
        gone: Is no parameter.

    Raises:
        NoSuchError: Never.
    """
    if wait:
        raise ValueError(first)


class _WorseError(ValueError):
    """Something that holds more than it says.

    Attributes:
        gone: Is no attribute.
    """

    def __init__(self) -> None:
        self.found = 1


@pytest.mark.parametrize(
    ("check", "thing", "problems"),
    [
        (no_sentence, _bad, ["do it."]),
        (untold_parameters, _bad, ["first"]),
        (parameters_that_are_not_there, _bad, ["gone"]),
        (untold_attributes, _WorseError, ["found"]),
        (attributes_that_are_not_there, _WorseError, ["gone"]),
        (errors_that_are_none, _bad, ["NoSuchError"]),
        (untold_errors, _bad, ["ValueError"]),
        (other_units, _bad, ["wait has no unit", "length_tokens"]),
    ],
    ids=[check.__name__ for check in CHECKS],
)
def test_each_of_these_checks_can_fail(
    check: Check, thing: Any, problems: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(thing, "__module__", "lc_service.bad")
    assert list(check(Item("lc_service.bad", thing))) == problems
