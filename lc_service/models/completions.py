"""The SDK's `chat.completions` resources, whose plain raw `create` sends and reads JSON as it is.

Invariant: the same request on the wire and the same dump of its answer as by the SDK's own way, which all
goes that JSON alone would not write the same. Streams, `parse` and all the rest are the SDK's.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

from openai._base_client import make_request_options
from openai._constants import RAW_RESPONSE_HEADER
from openai._legacy_response import LegacyAPIResponse
from openai.resources.chat.completions import (
    AsyncCompletions,
    AsyncCompletionsWithRawResponse,
    Completions,
    CompletionsWithRawResponse,
)
from openai.types.chat import ChatCompletion

from lc_service.models.dump import dump

_OPTIONS = frozenset({"extra_headers", "extra_query", "extra_body", "timeout"})
_PATH = "/chat/completions"


class PlainCompletions(Completions):
    """The synchronous resource; thread-safe."""

    @cached_property
    def with_raw_response(self) -> CompletionsWithRawResponse:
        """The SDK's, with another `create`."""
        raw = CompletionsWithRawResponse(self)
        sdk_create = raw.create

        def create(**said: Any) -> Any:
            content = _written(said)
            if content is None:
                return sdk_create(**said)
            answer: Any = self._post(_PATH, content=content, options=_options(said), cast_to=ChatCompletion)
            return PlainResponse(answer)

        raw.create = create
        return raw


class AsyncPlainCompletions(AsyncCompletions):
    """The asynchronous resource; loop-safe."""

    @cached_property
    def with_raw_response(self) -> AsyncCompletionsWithRawResponse:
        """The SDK's, with another `create`."""
        raw = AsyncCompletionsWithRawResponse(self)
        sdk_create = raw.create

        async def create(**said: Any) -> Any:
            content = _written(said)
            if content is None:
                return await sdk_create(**said)
            answer: Any = await self._post(
                _PATH, content=content, options=_options(said), cast_to=ChatCompletion
            )
            return PlainResponse(answer)

        raw.create = create
        return raw


class PlainResponse:
    """The SDK's raw response, whose `parse` gives a dictionary where that is the same to LangChain."""

    def __init__(self, raw: LegacyAPIResponse[ChatCompletion]) -> None:
        self._raw = raw
        self.http_response = raw.http_response
        self.headers = raw.http_response.headers

    def parse(self) -> Any:
        """Return the dump of the completion; what the SDK's `parse` returns where that may differ."""
        response = self.http_response
        if self.headers.get("content-type", "").partition(";")[0].endswith("json"):
            dumped = dump(response.json())
            if dumped is not None:
                return dumped
        return self._raw.parse()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _written(said: Mapping[str, Any]) -> bytes | None:
    """Write the body of a plain request; None where the SDK has to read its arguments."""
    if said.get("stream") or "messages" not in said or "model" not in said:
        return None
    body = {name: said[name] for name in _fields() if name in said}
    if len(body) + sum(name in said for name in _OPTIONS) < len(said):
        return None  # the SDK refuses what it does not know
    if extra := said.get("extra_body"):
        if not isinstance(extra, dict):
            return None
        body |= extra
    try:
        # As the SDK writes it; the encoder refuses all that the SDK's transformation of parameters changes.
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return None


@cache
def _fields() -> tuple[str, ...]:
    """Return the names that the SDK's `create` takes for the body, in the order in which it writes them."""
    names = inspect.signature(Completions.create).parameters.keys() - _OPTIONS - {"self"}
    asked: Any = SimpleNamespace(_post=lambda _, *, body, **__: tuple(body))
    fields: Any = Completions.create(asked, **dict.fromkeys(names, ""))  # type: ignore[call-overload]
    return fields  # type: ignore[no-any-return]


def _options(said: Mapping[str, Any]) -> Any:
    options = {name: said[name] for name in _OPTIONS if name in said and name != "extra_body"}
    options["extra_headers"] = {**(said.get("extra_headers") or {}), RAW_RESPONSE_HEADER: "true"}
    return make_request_options(**options, security={"bearer_auth": True})
