"""The SDK's `chat.completions` resources, whose plain raw `create` sends and reads JSON as it is.

Invariant: the same request on the wire and the same dump of its answer as by the SDK's own way, which all
goes that JSON alone would not write the same. Streams, `parse` and all the rest are the SDK's.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from types import SimpleNamespace
from typing import Any

import httpx2
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
from lc_service.models.plain_request import PATH, Template, is_the_sdks, template

_REQUEST_OPTIONS = frozenset({"extra_headers", "extra_query", "timeout"})
_OPTIONS = _REQUEST_OPTIONS | {"extra_body"}


class PlainCompletions(Completions):
    """The synchronous resource; thread-safe."""

    template: Template | None = None

    @cached_property
    def with_raw_response(self) -> CompletionsWithRawResponse:
        """The SDK's, with another `create`."""
        raw = CompletionsWithRawResponse(self)
        sdk_create = raw.create

        def create(**said: Any) -> Any:
            content = _written(said)
            if content is None or not is_the_sdks(Completions.create):
                return sdk_create(**said)
            made = _template(self, said)
            if made is not None:
                response = made.send(content)
                return PlainResponse(response, partial(made.raw, response))
            answer: Any = self._post(PATH, content=content, options=_options(said), cast_to=ChatCompletion)
            return PlainResponse(answer.http_response, lambda: answer)

        raw.create = create
        return raw


class AsyncPlainCompletions(AsyncCompletions):
    """The asynchronous resource; loop-safe."""

    template: Template | None = None

    @cached_property
    def with_raw_response(self) -> AsyncCompletionsWithRawResponse:
        """The SDK's, with another `create`."""
        raw = AsyncCompletionsWithRawResponse(self)
        sdk_create = raw.create

        async def create(**said: Any) -> Any:
            content = _written(said)
            if content is None or not is_the_sdks(AsyncCompletions.create):
                return await sdk_create(**said)
            made = _template(self, said)
            if made is not None:
                response = await made.asend(content)
                return PlainResponse(response, partial(made.raw, response))
            options = _options(said)
            answer: Any = await self._post(PATH, content=content, options=options, cast_to=ChatCompletion)
            return PlainResponse(answer.http_response, lambda: answer)

        raw.create = create
        return raw


class PlainResponse:
    """The SDK's raw response, whose `parse` gives a dictionary where that is the same to LangChain."""

    def __init__(
        self, response: httpx2.Response, raw: Callable[[], LegacyAPIResponse[ChatCompletion]]
    ) -> None:
        self._make_raw = raw
        self.http_response = response
        self.headers = response.headers

    def parse(self) -> Any:
        """Return the dump of the completion; what the SDK's `parse` returns where that may differ."""
        response = self.http_response
        if self.headers.get("content-type", "").partition(";")[0].endswith("json"):
            dumped = dump(response.json())
            if dumped is not None:
                return dumped
        return self._raw.parse()

    @cached_property
    def _raw(self) -> LegacyAPIResponse[ChatCompletion]:
        return self._make_raw()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _template(resource: PlainCompletions | AsyncPlainCompletions, said: Mapping[str, Any]) -> Template | None:
    """Return what the request of a plain call is copied from; None where the SDK has to build it."""
    if not said.keys().isdisjoint(_REQUEST_OPTIONS):
        return None
    if resource.template is None or not resource.template.fits():
        resource.template = template(resource._client, _options({}))  # noqa: SLF001  every resource has it
    return resource.template


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
