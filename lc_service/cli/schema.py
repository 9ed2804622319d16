"""A JSON schema as a Pydantic class: what objects a chain is to extract.

Invariant: all that the schema asks for is checked; a keyword that cannot be is refused, never skipped.
What is not told is asked for as null, and left out of the answer where the schema does not require it.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
)

_NOTES = frozenset({
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples",
    "deprecated", "format",
})  # fmt: skip
_OF_NUMBERS = {
    "minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
}  # fmt: skip
_BOUNDS = {
    "string": {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"},
    "integer": _OF_NUMBERS,
    "number": _OF_NUMBERS,
    "boolean": {},
    "null": {},
    "array": {"minItems": "min_length", "maxItems": "max_length"},
    "object": {},
}
_INSIDE = {"array": {"items"}, "object": {"properties", "required", "additionalProperties"}}
_PLAIN: Mapping[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}
_FORMATS: Mapping[str, Any] = {
    "date": dt.date, "date-time": dt.datetime, "time": dt.time, "uuid": uuid.UUID,
}  # fmt: skip


class SchemaError(ValueError):
    """Raise for a JSON schema that cannot be held against an answer; the message says where and why."""


def _ask_for_all(schema: dict[str, Any]) -> None:
    if "properties" in schema:  # an optional key takes null; with all of them named, strict modes serve it
        schema["required"] = list(schema["properties"])


class _Answered(BaseModel):
    model_config = ConfigDict(regex_engine="python-re", json_schema_extra=_ask_for_all)

    @model_serializer(mode="wrap")
    def _without_the_untold(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields.values()
        required = {field.alias for field in fields if field.is_required()}
        return {key: value for key, value in serialize(self).items() if value is not None or key in required}


class _Closed(_Answered):
    model_config = ConfigDict(extra="forbid")


def class_of(schema: Any, name: str) -> type[BaseModel]:
    """Return a class whose instances are what the schema says, in keys of the schema.

    Args:
        schema: The JSON schema of an object, as it was loaded from JSON.
        name: What the objects are called where the schema has no title.

    Raises:
        SchemaError: It is of no object, refers to itself, or has a keyword that is not understood.
    """
    if not isinstance(schema, dict):
        raise SchemaError("a JSON schema is an object")
    try:
        found = _Reading(schema).type_of({"title": name, **schema}, "schema")
    except SchemaError:
        raise
    except Exception as error:  # Pydantic has many for bounds that fit no type, patterns that are none, ...
        raise SchemaError(f"a bound or a pattern in it is wrong ({type(error).__name__})") from error
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise SchemaError("it has to be of an object with properties; --several gives a list of them")
    return found


class _Reading:
    """One schema, with the references that are being followed in it."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._followed: tuple[str, ...] = ()

    def type_of(self, schema: Any, at: str) -> Any:
        """Return the type of what stands `at` a place in the schema."""
        if schema is True or schema == {}:
            return Any
        if not isinstance(schema, dict):
            raise SchemaError(f"{at} is no schema")
        if "$ref" in schema:
            return self._referred(dict(schema), at)
        if "enum" in schema or "const" in schema:
            return self._choice(schema, at)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                _refuse_others(schema, {key}, at)
                return _union([self._described(one, f"{at}.{key}") for one in _list(schema, key, at)])
        kinds = _kinds(schema, at)
        allowed = {"type"}.union(
            *(_INSIDE.get(kind, ()) for kind in kinds), *(_BOUNDS[kind] for kind in kinds)
        )
        _refuse_others(schema, allowed, at)
        return _union([self._of_kind(kind, schema, at) for kind in kinds])

    def _described(self, schema: Any, at: str) -> Any:
        found, text = self.type_of(schema, at), _description(schema)
        return Annotated[found, Field(description=text)] if text else found

    def _referred(self, schema: dict[str, Any], at: str) -> Any:
        reference = schema.pop("$ref")
        if reference in self._followed:
            raise SchemaError(f"{at} refers to itself, which takes a Pydantic class: --schema MODULE:CLASS")
        target: Any = self._root
        for step in str(reference).removeprefix("#").split("/")[1:]:
            target = target.get(step) if isinstance(target, dict) else None
        if not str(reference).startswith("#/") or not isinstance(target, dict):
            raise SchemaError(f"{at} refers to {reference!r}, which is not in the file")
        before, self._followed = self._followed, (*self._followed, reference)
        try:
            return self.type_of({"title": reference.rpartition("/")[2], **target, **schema}, at)
        finally:
            self._followed = before

    def _choice(self, schema: Mapping[str, Any], at: str) -> Any:
        _refuse_others(schema, {"enum", "const", "type"}, at)
        values = [schema["const"]] if "const" in schema else _list(schema, "enum", at)
        if not all(value is None or isinstance(value, str | int) for value in values):
            raise SchemaError(f"{at} lets choose from what is neither text nor whole number")
        return Literal[tuple(values)]

    def _of_kind(self, kind: str, schema: Mapping[str, Any], at: str) -> Any:
        if kind == "object":
            return self._object(schema, at)
        if kind == "array":
            found: Any = list[self._described(schema.get("items", True), f"{at}.items")]  # type: ignore[misc]  # known at run time
        else:
            found = _FORMATS.get(schema.get("format", ""), str) if kind == "string" else _PLAIN[kind]
        bounds = {ours: schema[theirs] for theirs, ours in _BOUNDS[kind].items() if theirs in schema}
        return Annotated[found, Field(**bounds)] if bounds else found

    def _object(self, schema: Mapping[str, Any], at: str) -> Any:
        properties, further = schema.get("properties", {}), schema.get("additionalProperties", True)
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise SchemaError(f"{at} has properties that are no object, or required ones that are no list")
        if not properties and further is not False:
            return dict[str, self._described(further, f"{at}.additionalProperties")]  # type: ignore[misc]  # known at run time
        if isinstance(further, dict):
            raise SchemaError(f"{at} has properties and a schema for further ones; name them all")
        if unknown := [name for name in required if name not in properties]:
            raise SchemaError(f"{at} requires {unknown[0]!r}, which is none of its properties")
        fields: dict[str, Any] = {}
        for number, (key, each) in enumerate(properties.items()):
            found = self.type_of(each, f"{at}.{key}")
            # keys are aliases: they may be no names in Python, or names that Pydantic has a use for
            names: dict[str, Any] = {"alias": key, "title": key, "description": _description(each)}
            optional = _union([found, None]), Field(None, **names)
            fields[f"key_{number}"] = (found, Field(**names)) if key in required else optional
        name = re.sub(r"\W", "_", str(schema.get("title") or at.rpartition(".")[2]))
        base = _Closed if further is False else _Answered
        return create_model(name, __base__=base, __doc__=schema.get("description"), **fields)


def _description(schema: Any) -> str | None:
    return schema.get("description") if isinstance(schema, dict) else None


def _kinds(schema: Mapping[str, Any], at: str) -> list[str]:
    told = schema.get("type") or next((kind for kind, keys in _INSIDE.items() if keys & schema.keys()), None)
    kinds = [told] if isinstance(told, str) else told
    if not kinds or not isinstance(kinds, list):
        _refuse_others(schema, {"type"}.union(*_BOUNDS.values()), at)  # allOf, not and their like have none
        raise SchemaError(f"{at} has no type")
    if unknown := [kind for kind in kinds if kind not in _BOUNDS]:
        raise SchemaError(f"{at} has the type {unknown[0]!r}; there are {', '.join(_BOUNDS)}")
    return kinds


def _list(schema: Mapping[str, Any], key: str, at: str) -> list[Any]:
    found = schema[key]
    if not isinstance(found, list) or not found:
        raise SchemaError(f"{at}.{key} has to be a list with something in it")
    return found


def _refuse_others(schema: Mapping[str, Any], known: set[str], at: str) -> None:
    if others := sorted(schema.keys() - known - _NOTES):
        instead = "leave it out, or give a Pydantic class: --schema MODULE:CLASS"
        raise SchemaError(f"{at} has {others[0]!r}, which is not understood here; {instead}")


def _union(types: list[Any]) -> Any:
    return Union[tuple(types)]  # noqa: UP007  types that are known at run time
