"""What the SDK's model of a chat completion would dump, read off the JSON without building that model.

Invariant: equal to `ChatCompletion.construct(**body).model_dump()`, or None wherever that is not certain:
what the SDK would coerce, or declares in a way not known here, is left to it. Judges no answer.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import openai
from openai.types.chat import ChatCompletion
from pydantic_core import PydanticUndefined

Dump = Callable[[Any], Any]
"""Returns what becomes of a value that is not None; raises `_NotCertain`."""


class CompletionDump(dict[str, Any]):
    """A chat completion as a dictionary with all the fields that the SDK's model has, None where unsaid."""


class _NotCertain(Exception):  # noqa: N818  control flow: never leaves this module
    """The SDK has to say what becomes of a value."""


def dump(body: object) -> CompletionDump | None:
    """Return the dump of a chat completion's decoded JSON; None where the SDK has to make it."""
    if not isinstance(body, dict):
        return None
    try:
        completion = CompletionDump(_dump_of_model(ChatCompletion)(body))
    except _NotCertain:
        return None
    for choice in completion["choices"] or ():
        # Structured output: LangChain takes it out of the dump and wants it typed.
        if choice["message"] is not None and "parsed" in choice["message"]:
            return None
    return completion


@cache
def _dump_of_model(model: type[openai.BaseModel]) -> Dump:
    fields = model.model_fields
    if any(field.alias or field.get_default() not in (None, PydanticUndefined) for field in fields.values()):
        return _refuse
    dumps = {name: _dump_of(field.annotation) for name, field in fields.items()}

    def dump_fields(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _NotCertain
        made: dict[str, Any] = {}
        for name, dump_field in dumps.items():
            said = value.get(name)
            made[name] = None if said is None else dump_field(said)
        for name in value:
            if name not in made:  # a provider's own
                made[name] = value[name]
        return made

    return dump_fields


def _dump_of(annotation: Any) -> Dump:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _dump_of(arguments[0])
    if origin is Literal:
        # Unknown words stay as they are.
        return _same(str) if all(isinstance(word, str) for word in arguments) else _refuse
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return _dump_of(kinds[0]) if len(kinds) == 1 else _dump_of_variants(kinds)
    if origin is list:
        return _dump_of_list(_dump_of(arguments[0]))
    if annotation in (str, int, float, bool):
        return _same(annotation)
    if isinstance(annotation, type) and issubclass(annotation, openai.BaseModel):
        return _dump_of_model(annotation)
    return _refuse


def _dump_of_variants(kinds: list[Any]) -> Dump:
    """Dump one of several models that tell themselves apart by `type`."""
    variants: dict[str, Dump] = {}
    for kind in kinds:
        field = getattr(kind, "model_fields", {}).get("type")
        words = get_args(field.annotation) if field is not None else ()
        if len(words) != 1:
            return _refuse
        variants[words[0]] = _dump_of_model(kind)

    def dump_variant(value: Any) -> Any:
        word = value.get("type") if type(value) is dict else None
        if not isinstance(word, str) or word not in variants:
            raise _NotCertain
        return variants[word](value)

    return dump_variant


def _dump_of_list(dump_item: Dump) -> Dump:
    def dump_items(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _NotCertain
        return [dump_item(item) for item in value]

    return dump_items


def _same(kind: type) -> Dump:
    def dump_scalar(value: Any) -> Any:
        if type(value) is not kind:
            raise _NotCertain
        return value

    return dump_scalar


def _refuse(_: Any) -> Any:
    raise _NotCertain
