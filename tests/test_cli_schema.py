"""A JSON schema of the command line as a class: what it takes, what it gives, what it refuses."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from chains.structured import _is_closed, json_schema
from lc_service.cli.schema import SchemaError, class_of

PLACE = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
LIGHT: dict[str, Any] = {
    "title": "Light house",
    "description": "A light of the coast.",
    "type": "object",
    "properties": {
        "keeper": {"type": "string", "description": "Who lights it.", "minLength": 2},
        "_model": {"type": ["string", "null"]},
        "schema": {"type": "integer", "minimum": 1, "maximum": 9},
        "built": {"type": "string", "format": "date"},
        "colour": {"enum": ["red", "white", None]},
        "kind": {"const": "light"},
        "where": {"$ref": "#/$defs/Place", "description": "The harbour."},
        "others": {"type": "array", "items": {"$ref": "#/$defs/Place"}, "maxItems": 2},
        "height": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]},
        "code": {"type": "string", "pattern": "^(?!X)[A-Z]+$"},
        "keys": {"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": False},
    },
    "required": ["keeper", "_model"],
    "$defs": {"Place": PLACE},
}
NEEDED = {"keeper": "Ann", "_model": None}


def read(**answer: Any) -> Any:
    return to_jsonable_python(class_of(LIGHT, "light").model_validate_json(json.dumps(NEEDED | answer)))


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("keeper", "Bo", "B"),
        ("_model", "3A", 7),
        ("schema", 9, 10),
        ("built", "1912-04-01", "spring"),
        ("colour", "red", "blue"),
        ("kind", "light", "buoy"),
        ("where", {"name": "Quay"}, {}),
        ("others", [{"name": "A"}, {"name": "B"}], [{"name": "A"}] * 3),
        ("height", 12.5, 0),
        ("code", "AB", "XB"),
        ("keys", {"a": True}, {"b": True}),
    ],
)
def test_what_the_schema_asks_for_is_checked(key: str, good: Any, bad: Any) -> None:
    answer = read(**{key: good})
    assert answer == NEEDED | {key: good}
    jsonschema.validate(answer, LIGHT)
    with pytest.raises(ValidationError, match=key):
        read(**{key: bad})


def test_what_is_not_told_is_left_out() -> None:
    untold = {key: None for key in LIGHT["properties"] if key not in NEEDED}
    assert read(**untold) == read() == NEEDED
    with pytest.raises(ValidationError, match="keeper"):
        read(keeper=None)


def test_the_model_is_asked_for_every_key_with_its_description() -> None:
    asked = json_schema(class_of(LIGHT, "light"))
    assert (asked["title"], asked["description"]) == ("Light_house", "A light of the coast.")
    assert asked["required"] == list(LIGHT["properties"])
    assert asked["properties"]["keeper"]["description"] == "Who lights it."
    assert asked["properties"]["where"]["description"] == "The harbour."
    assert _is_closed(asked)
    assert json_schema(class_of(PLACE, "place"))["title"] == "place"


def test_two_objects_of_a_name_are_two() -> None:
    inner = {"properties": {"of": {"properties": {"a": {"type": "string"}}, "required": ["a"]}}}
    schema = {"properties": {"of": {"properties": {"of": inner}}, "other": {"$ref": "#/properties/of"}}}
    told = {"of": {"of": {"of": {"a": "x"}}}, "other": {"of": {"of": {"a": "y"}}}}
    assert to_jsonable_python(class_of(schema, "of").model_validate(told)) == told


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ([], "a JSON schema is an object"),
        ({}, "schema has no type"),
        ({"type": "array", "items": {}}, "it has to be of an object with properties"),
        ({"type": "object"}, "it has to be of an object with properties"),
        ({"type": "thing"}, "schema has the type 'thing'; there are string, integer"),
        ({"properties": {"a": 3}}, "schema.a is no schema"),
        ({"properties": {"a": {}, "b": {"description": "x"}}}, "schema.b has no type"),
        ({"properties": []}, "schema has properties that are no object"),
        (
            {"properties": {"a": {}}, "required": ["b"]},
            "schema requires 'b', which is none of",
        ),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, "schema has properties and"),
        ({"properties": {"a": {}}, "if": {}}, "schema has 'if', which is not understood here"),
        ({"properties": {"a": {"type": "string", "minimum": 1}}}, "schema.a has 'minimum', which is not"),
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "schema.a has 'uniqueItems'"),
        (
            {"properties": {"a": {"items": {"not": {}}}}},
            "schema.a.items has 'not', which is not",
        ),
        ({"properties": {"a": {"enum": []}}}, "schema.a.enum has to be a list with something in it"),
        ({"properties": {"a": {"enum": [1.5]}}}, "schema.a lets choose from what is neither text"),
        ({"properties": {"a": {"$ref": "#/$defs/B"}}}, "schema.a refers to '#/\\$defs/B', which is not in"),
        ({"properties": {"a": {"$ref": "b.json#/c"}}}, "schema.a refers to 'b.json#/c', which is not in"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "schema.a refers to itself"),
        ({"properties": {"a": {"type": "string", "pattern": "("}}}, "a bound or a pattern in it is wrong"),
        ({"properties": {"a": {"type": "string", "minLength": "x"}}}, "a bound or a pattern in it is wrong"),
    ],
    ids=str,
)
def test_what_cannot_be_held_against_an_answer_is_refused(schema: Any, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        class_of(schema, "thing")


_LEAF = st.one_of(
    st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind}),
    st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True).map(lambda values: {"enum": values}),
)
_SCHEMAS = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        inner.map(lambda items: {"type": "array", "items": items}),
        st.tuples(st.dictionaries(st.text(max_size=4), inner, min_size=1, max_size=3), st.booleans()).map(
            lambda drawn: {
                "type": "object", "properties": drawn[0], "required": list(drawn[0]) if drawn[1] else [],
            }
        ),
    ),
    max_leaves=6,
)  # fmt: skip


def _instance(schema: dict[str, Any], draw: Any) -> Any:
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if schema["type"] == "array":
        return [_instance(schema["items"], draw) for _ in range(draw(st.integers(0, 2)))]
    if schema["type"] == "object":
        kept = [key for key in schema["properties"] if key in schema["required"] or draw(st.booleans())]
        return {key: _instance(schema["properties"][key], draw) for key in kept}
    finite = st.floats(allow_nan=False, allow_infinity=False)
    return draw({
        "string": st.text(max_size=3), "integer": st.integers(-9, 9), "number": finite,
        "boolean": st.booleans(), "null": st.none(),
    }[schema["type"]])  # fmt: skip


@given(schema=st.dictionaries(st.text(max_size=4), _SCHEMAS, min_size=1, max_size=3), data=st.data())
def test_what_fits_the_schema_comes_out_and_fits_it(schema: dict[str, Any], data: st.DataObject) -> None:
    whole = {"type": "object", "properties": schema, "required": list(schema)}
    told = _instance(whole, data.draw)
    found = to_jsonable_python(class_of(whole, "thing").model_validate_json(json.dumps(told)))
    jsonschema.validate(found, whole)
    assert found.keys() == told.keys()
