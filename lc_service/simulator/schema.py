"""Make a value from a JSON schema and a text: tool arguments, structured output.

Invariant: the value is deterministic and, for the keywords below, valid against the schema.
It honours const, enum, default, type, format, length, range, multipleOf, items, properties,
anyOf/oneOf/allOf and local $ref; it ignores not, if/then/else, and patterns it cannot meet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from lc_service.simulator.material import Material

_MAX_DEPTH = 6  # beyond it optional properties and spare items are left out, so recursion ends

_FORMATS = {
    "date": "2026-01-15",
    "date-time": "2026-01-15T09:30:00Z",
    "time": "09:30:00Z",
    "duration": "P1D",
    "email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000001",
}
_FOUND_IN_TEXT = {
    "date": re.compile(r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b"),
    "email": re.compile(r"\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b"),
}
_PROSE = frozenset(
    (
        "abstract", "answer", "body", "comment", "content", "description", "explanation", "message",
        "output", "reason", "reasoning", "response", "summary", "text",
    )
)  # fmt: skip
_REQUEST = frozenset(("input", "instruction", "prompt", "query", "question", "request", "search", "task"))
_PATTERN_TRIES = ("2026-01-15", "abc", "ABC", "A", "a", "Ab1", "123", "1", "12345", "ABC-123",
                  "abc_123", "1.0.0", "#a1b2c3", "+15550100", "09:30")  # fmt: skip


def make_value(schema: object, material: Material, variant: int = 0) -> Any:
    """Return a value for `schema`, filled with what `material` offers.

    Args:
        schema: A JSON schema, as parsed.
        material: The text to fill strings and numbers from.
        variant: Another number takes other names and numbers from the text.
    """
    return _Maker(schema, material).make(schema, "", variant, 0)


class _Maker:
    def __init__(self, root: object, material: Material) -> None:
        self.root = root
        self.material = material

    def make(self, schema: object, name: str, variant: int, depth: int) -> Any:
        schema = self.resolve(schema, 0)
        if "const" in schema:
            return schema["const"]
        if isinstance(options := schema.get("enum"), list) and options:
            return self.choose(options)
        if "default" in schema:
            return schema["default"]
        kind = self.kind_of(schema)
        if kind == "object":
            return self.make_object(schema, variant, depth)
        if kind == "array":
            return self.make_array(schema, name, variant, depth)
        if kind in {"integer", "number"}:
            return self.make_number(schema, variant, is_integer=kind == "integer")
        if kind == "boolean":
            return True
        return None if kind == "null" else self.make_string(schema, name, variant)

    def resolve(self, schema: object, hops: int) -> Mapping[str, Any]:
        """Return `schema` with $ref, allOf and the first useful alternative merged in."""
        if not isinstance(schema, dict) or hops > 32:
            return {}
        merged = dict(schema)
        reference = merged.pop("$ref", None)
        if isinstance(reference, str):
            merged = {**self.resolve(self.look_up(reference), hops + 1), **merged}
        for part in merged.pop("allOf", None) or ():
            merged = _merge(merged, self.resolve(part, hops + 1))
        if "const" in merged or "default" in merged:
            return merged
        for keyword in ("anyOf", "oneOf"):
            options = merged.pop(keyword, None)
            if isinstance(options, list) and options:
                useful = [o for o in options if not (isinstance(o, dict) and _is_null(o))]
                merged = _merge(merged, self.resolve((useful or options)[0], hops + 1))
        return merged

    def look_up(self, reference: str) -> object:
        node: object = self.root
        for part in reference.removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            node = node.get(key) if isinstance(node, dict) else None
        return node

    def choose(self, options: list[Any]) -> Any:
        text = self.material.text.lower()
        for option in options:
            if isinstance(option, str) and option and option.lower() in text:
                return option
        return options[0]

    @staticmethod
    def kind_of(schema: Mapping[str, Any]) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if isinstance(kind, str):
            return kind
        if "properties" in schema or "required" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        has_range = any(k in schema for k in ("minimum", "maximum", "multipleOf"))
        return "number" if has_range else "string"

    def make_object(self, schema: Mapping[str, Any], variant: int, depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        required = required if isinstance(required, list) else []
        made: dict[str, Any] = {}
        kinds = [self.kind_of(self.resolve(part, 0)) for part in properties.values()]
        # the second string takes the second name of the text, the second number the second one;
        # a string on its own takes the last name ("the weather in Paris")
        taken = {"string": -1} if kinds.count("string") == 1 else {}
        for (name, part), kind in zip(properties.items(), kinds, strict=True):
            if depth >= _MAX_DEPTH and name not in required:
                continue
            made[name] = self.make(part, name, variant + taken.get(kind, 0), depth + 1)
            taken[kind] = taken.get(kind, 0) + 1
        rest = schema.get("additionalProperties")
        for name in required:
            if name not in made:
                made[name] = self.make(rest, name, variant, depth + 1)
        return made

    def make_array(self, schema: Mapping[str, Any], name: str, variant: int, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems")
        made = [
            self.make(part, name, variant + index, depth + 1)
            for index, part in enumerate(prefix if isinstance(prefix, list) else ())
        ]
        items = schema.get("items", {})
        least, most = int(schema.get("minItems", 0)), int(schema.get("maxItems", 10_000))
        item = self.resolve(items, 0)
        wanted = 1
        if self.kind_of(item) == "string" and not {"const", "enum"} & item.keys():
            wanted = min(3, len(self.material.keywords))
        if depth >= _MAX_DEPTH or items is False or made:
            wanted = 0
        options = item.get("enum")
        for index in range(len(made), min(most, max(least, wanted))):
            if isinstance(options, list) and options:
                made.append(options[index % len(options)])
            else:
                made.append(self.make_item(item, name, variant + index, depth, made))
        return made

    def make_item(self, item: Mapping[str, Any], name: str, variant: int, depth: int, made: list[Any]) -> Any:
        value = self.make(item, name or "keyword", variant, depth + 1)
        if value not in made or {"const", "default", "format", "pattern"} & item.keys():
            return value
        if self.kind_of(item) == "string":
            words = [word for word in self.material.keywords if word not in made]
            return _fit_length(words[0] if words else f"item {len(made) + 1}", item)
        return value

    def make_number(self, schema: Mapping[str, Any], variant: int, *, is_integer: bool) -> float:
        numbers = self.material.numbers
        value = numbers[variant % len(numbers)] if numbers else 1.0
        step = schema.get("multipleOf") or (1 if is_integer else 0)
        low, high = _range(schema, is_integer=is_integer)
        value = value if low is None else max(low, value)
        value = value if high is None else min(high, value)
        if step:
            value = _on_step(value, step, low, high)
        return int(value) if is_integer or float(value).is_integer() else value

    def make_string(self, schema: Mapping[str, Any], name: str, variant: int) -> str:
        form = schema.get("format")
        if isinstance(form, str) and form in _FORMATS:
            search = _FOUND_IN_TEXT.get(form)
            match = search.search(self.material.text) if search else None
            return match.group() if match else _FORMATS[form]
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            return self.match_pattern(pattern, schema)
        return _fit_length(self.pick_text(name, variant), schema)

    def match_pattern(self, pattern: str, schema: Mapping[str, Any]) -> str:
        tries = [*self.material.names, *self.material.text.split(), *_PATTERN_TRIES]
        try:
            return next((t for t in tries if re.search(pattern, t)), _PATTERN_TRIES[0])
        except re.error:
            return _fit_length(tries[0], schema)

    def pick_text(self, name: str, variant: int) -> str:
        words = set(re.findall(r"[a-z]+", name.lower()))
        if words & _PROSE:
            return self.material.summary() or "text"
        if words & _REQUEST:
            return self.material.text or "text"
        names = self.material.names or self.material.keywords
        if not names:
            return self.material.text[:40] or "text"
        return names[variant % len(names)]


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**other, **one}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**other["properties"], **one["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *other["required"]]
    return merged


def _is_null(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "null" or ("const" in schema and schema["const"] is None)


def _range(schema: Mapping[str, Any], *, is_integer: bool) -> tuple[float | None, float | None]:
    """Return the least and the greatest value allowed, exclusive bounds moved inwards."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    ends = [v for v in (low, above) if v is not None], [v for v in (high, below) if v is not None]
    gap = 0.5
    if all(ends):
        gap = min(gap, (min(ends[1]) - max(ends[0])) / 3)
    if above is not None and (low is None or above >= low):
        low = math.floor(above) + 1 if is_integer else above + gap
    if below is not None and (high is None or below <= high):
        high = math.ceil(below) - 1 if is_integer else below - gap
    return low, high


def _on_step(value: float, step: float, low: float | None, high: float | None) -> float:
    stepped = math.floor(value / step) * step
    if low is not None and stepped < low:
        stepped = math.ceil(low / step) * step
    if high is not None and stepped > high:
        stepped = math.floor(high / step) * step
    return stepped


def _fit_length(text: str, schema: Mapping[str, Any]) -> str:
    shortest, longest = int(schema.get("minLength", 0)), schema.get("maxLength")
    text = text[: int(longest)] if longest is not None else text
    return text + "x" * (shortest - len(text))
