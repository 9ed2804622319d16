"""What is given to a chain on the command line, read from words: pairs, labels, schemas, texts.

Every error is one line that says what to do. Nothing here knows any chain.
"""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lc_service.cli.options import CommandError

STDIN = "-"


@dataclass(frozen=True)
class Choices:
    """What a user says of how a chain is made.

    Attributes:
        labels: Labels, with what they mean or "".
        schema: A Pydantic class; None where none was named.
        is_several: Whether any number of labels or objects is asked for.
        settings: Further options of the chain's factory.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    schema: type[Any] | None = None
    is_several: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_labels(given: Sequence[str]) -> dict[str, str]:
    """Read labels, each with what it means after a `=` or without."""
    return {name.strip(): meaning.strip() for name, _, meaning in (label.partition("=") for label in given)}


def read_pairs(given: Sequence[str], name: str) -> Iterator[tuple[str, str]]:
    """Read `name=value` pairs.

    Args:
        given: The pairs.
        name: The option that they came with, for errors.

    Raises:
        CommandError: A pair is none.
    """
    for pair in given:
        key, is_there, value = pair.partition("=")
        if not is_there or not key:
            raise CommandError(
                f"{name} takes NAME=VALUE; {pair!r} has no =" if key else f"{name} takes NAME=VALUE"
            )
        yield key.strip().replace("-", "_"), value


def json_or_text(value: str) -> Any:
    """Return what the JSON says, or the value where it is none."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def read_schema(target: str) -> type[Any]:
    """Return what to extract: the class that is named, or one of the JSON schema in a file.

    Raises:
        CommandError: There is none, or it cannot be used.
    """
    if ":" in target and not target.endswith(".json"):
        return _class_named(target)
    try:
        text = read_text(target)
    except CommandError as error:
        raise CommandError(f"--schema: {error}; give FILE.json or MODULE:CLASS") from error
    from lc_service.cli.schema import SchemaError, class_of

    try:
        return class_of(json.loads(text), Path(target).stem)
    except SchemaError as error:
        raise CommandError(f"--schema: {target}: {error}") from error
    except json.JSONDecodeError as error:
        raise CommandError(f"--schema: {target} is no JSON: {error.msg} in line {error.lineno}") from error


def _class_named(target: str) -> type[Any]:
    from lc_service.demo import ChainTargetError, load_object

    try:
        found: type[Any] = load_object(target, "class", example="invoices:Invoice")
    except ChainTargetError as error:
        raise CommandError(f"--schema: {error}") from error
    return found


def read_text(name: str) -> str:
    """Return what a file holds, or stdin where the name is `-`.

    Raises:
        CommandError: It cannot be read, or is no text in UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{name} is no text in UTF-8") from error


@contextlib.contextmanager
def wrong_settings() -> Iterator[None]:
    """Turn what a factory or an index has against its options into one line."""
    try:
        yield
    except (TypeError, ValueError, ImportError) as error:
        first = str(error).partition("\n")[0]
        if (errors := getattr(error, "errors", None)) is not None:  # Pydantic's own text has many lines
            problem = errors(include_input=False, include_url=False)[0]
            first = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        raise CommandError(first) from error
