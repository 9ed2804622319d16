"""Make a chat model answer in JSON of a schema, by the means the model has for it.

Invariant: whatever is bound to the model is sent as well, and what comes back is the raw message, or a
dictionary with it. It reads and checks no answer.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal, TypeAlias

from langchain_core.runnables import Runnable, RunnableParallel, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBinding
from langchain_core.runnables.configurable import DynamicRunnable
from pydantic import BaseModel

Method: TypeAlias = Literal["function_calling", "json_mode", "json_schema"]

_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_-]")  # what OpenAI refuses in the name of a schema


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a Pydantic model as providers take it: named, described, no defaults."""
    schema: dict[str, Any] = _without_defaults(model.model_json_schema())
    if "$ref" in schema:  # of a schema that holds itself, the root is a reference, which servers refuse
        schema = {**schema["$defs"][schema.pop("$ref").rpartition("/")[2]], **schema}
    title = _NOT_IN_NAMES.sub("_", schema["title"])[:64]
    return {"description": f"The form {title}.", **schema, "title": title}


def structured(
    model: Runnable[Any, Any], schema: dict[str, Any], method: Method | None, **bound: Any
) -> Runnable[Any, Any] | None:
    """Return the model with what makes it answer in JSON; None where it has no `with_structured_output`.

    Args:
        model: Any chat model, also one dressed with `bind` or `with_fallbacks`.
        schema: What `json_schema` returned.
        method: What `with_structured_output` takes; None for the model's own default.
        bound: Further arguments of each call.
    """
    if isinstance(model, RunnableBinding):  # which would lose what is bound
        inner = structured(model.bound, schema, method, **{**model.kwargs, **bound})
        return inner and model.model_copy(update={"bound": inner, "kwargs": {}})
    if isinstance(model, RunnableWithFallbacks):
        each = [structured(one, schema, method, **bound) for one in model.runnables]
        first, *others = each
        return None if None in each else model.model_copy(update={"runnable": first, "fallbacks": others})
    ask = getattr(model, "with_structured_output", None)
    if ask is None or isinstance(model, DynamicRunnable):  # a dynamic one would be asked as it is by default
        return None
    options: dict[str, Any] = {} if method is None else {"method": method}
    is_strict = method != "json_mode" and _is_closed(schema)
    if is_strict and "strict" in inspect.signature(ask).parameters:
        options["strict"] = True
    try:
        # a dictionary: with a class, OpenAI's SDK would validate, and its error has no raw answer
        asking: Runnable[Any, Any] = ask(schema, include_raw=True, **options, **bound)
    except NotImplementedError:
        return None
    # what LangChain has behind the model would parse leniently, and hop to threads where all is async
    first = asking.first if isinstance(asking, RunnableSequence) else None
    return first.steps__.get("raw", asking) if isinstance(first, RunnableParallel) else asking


def _is_closed(schema: Any) -> bool:
    """Tell whether each object of the schema names its keys, and none is optional: what strict modes take."""
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        properties = schema.get("properties")
        if not properties or schema.get("additionalProperties") or schema.keys() & {"patternProperties"}:
            return False
        if set(schema.get("required", ())) != properties.keys():
            return False
    return all(map(_is_closed, schema.values()))


def _without_defaults(schema: Any, *, is_names: bool = False) -> Any:
    if isinstance(schema, list):
        return [_without_defaults(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_defaults(each, is_names=not is_names and key in {"properties", "$defs"})
        for key, each in schema.items()
        if is_names or key != "default"
    }
