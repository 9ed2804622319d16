from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.simulator.material import Material
from lc_service.simulator.schema import make_value

TEXT = "Add 3 and 4 for Anna Smith in Paris on 2025-03-09, write to anna@example.org."


def make(schema, text=TEXT):
    return make_value(schema, Material(text))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 5}, 5),
        ({"enum": ["red", "blue"]}, "red"),
        ({"enum": ["London", "Paris"]}, "Paris"),
        ({"type": "integer", "default": 9}, 9),
        ({"type": "integer"}, 3),
        ({"type": "integer", "minimum": 10}, 10),
        ({"type": "integer", "exclusiveMaximum": 2}, 1),
        ({"type": "integer", "multipleOf": 2}, 2),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["null", "integer"]}, 3),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 3),
        ({"type": "string", "format": "date"}, "2025-03-09"),
        ({"type": "string", "format": "email"}, "anna@example.org"),
        ({"type": "string", "format": "uri"}, "https://example.com/"),
        ({"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}, "2026-01-15"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [3, 4]),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 3}, ["a", "b", "a"]),
        ({"allOf": [{"type": "integer"}, {"minimum": 7}]}, 7),
        (
            {
                "properties": {"a": {"type": "integer"}},
                "required": ["a"],
                "allOf": [{"properties": {"b": {"type": "boolean"}}, "required": ["b"]}],
            },
            {"a": 3, "b": True},
        ),
        ({"required": ["a"], "additionalProperties": {"type": "integer"}}, {"a": 3}),
        ({"items": {"type": "integer"}, "minItems": 2}, [3, 4]),
        ({"type": "integer", "minimum": 5, "multipleOf": 4}, 8),
        ({"type": "string", "pattern": "("}, "Anna Smith"),
        ({}, "Anna Smith"),
        ("no schema", "Anna Smith"),
    ],
)
def test_values_for_single_keywords(schema, value):
    assert make(schema) == value


def test_several_numbers_and_names_are_taken_in_order():
    schema = {
        "properties": {
            "a": {"type": "integer"}, "b": {"type": "integer"},
            "person": {"type": "string"}, "city": {"type": "string"},
        }
    }  # fmt: skip
    assert make(schema) == {"a": 3, "b": 4, "person": "Anna Smith", "city": "Paris"}


def test_a_string_on_its_own_takes_the_last_name():
    assert make({"properties": {"city": {"type": "string"}}}) == {"city": "Paris"}


def test_prose_gets_a_sentence_and_a_query_gets_the_message():
    schema = {"properties": {"summary": {"type": "string"}, "query": {"type": "string"}}}
    assert make(schema) == {"summary": TEXT, "query": TEXT}


def test_references_and_recursion_end():
    schema = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "children"],
            }
        },
        "$ref": "#/$defs/node",
    }
    jsonschema.validate(make(schema), schema)


def test_a_reference_in_a_circle_ends():
    assert make({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}) == "Anna Smith"


numbers = st.builds(
    lambda kind, low, span, is_open: {
        "type": kind,
        ("exclusiveMinimum" if is_open else "minimum"): low,
        ("exclusiveMaximum" if is_open else "maximum"): low + span,
    },
    st.sampled_from(["integer", "number"]),
    st.integers(-50, 50),
    st.integers(2, 20),
    st.booleans(),
)
strings = st.one_of(
    st.just({"type": "string"}),
    st.builds(
        lambda least, extra: {"type": "string", "minLength": least, "maxLength": least + extra},
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    st.builds(lambda options: {"enum": options}, st.lists(st.text(), min_size=1, max_size=4)),
)
leaves = st.one_of(numbers, strings, st.just({"type": "boolean"}), st.just({"type": "null"}))


def containers(inner):
    arrays = st.builds(
        lambda items, least, extra: {
            "type": "array", "items": items, "minItems": least, "maxItems": least + extra,
        },
        inner,
        st.integers(0, 4),
        st.integers(0, 3),
    )  # fmt: skip
    properties = st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4)
    objects = st.builds(
        lambda properties: {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
        properties,
    )
    unions = st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner)
    return st.one_of(arrays, objects, unions)


@given(st.recursive(leaves, containers, max_leaves=12), st.text(max_size=80))
def test_values_are_valid_against_their_schema(schema, text):
    value = make(schema, text)
    jsonschema.validate(value, schema)
    assert make(schema, text) == value
