"""The request of a plain completion, copied from one that the SDK built: only the body is another.

Invariant: what is sent, and what is raised, is as by the SDK's own `post`. Where the SDK does more than build
and send, and for an HTTP client of the caller's own, there is nothing to copy. Reads no answer.
"""

from __future__ import annotations

import logging
import types
from pathlib import Path
from typing import Any

import httpx2
import openai
from openai._httpx2 import request_exceptions, timeout_exceptions
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions
from openai.types.chat import ChatCompletion

from lc_service.models.http import LoopBoundAsyncClient, ProcessBoundClient

PATH = "/chat/completions"

# What may sign, change or repeat a request: None where the account has just a key.
_SIGNING = ("_provider_runtime", "_workload_identity_auth", "_api_key_provider", "_idempotency_header")
_FOLDER = str(Path(openai.__file__).parent)
_sdk_log = logging.getLogger("openai._base_client")


def is_the_sdks(function: object) -> bool:
    """Whether a function of the SDK's is its own: those who trace calls put theirs in its place."""
    return type(function) is types.FunctionType and function.__code__.co_filename.startswith(_FOLDER)


class Template:
    """A request of one SDK client, as that client is now. Thread-safe.

    Args:
        client: Sync or async.
        options: The SDK's options of a plain call, as for its `post`.
    """

    def __init__(self, client: Any, options: Any) -> None:
        # Dictionaries are copied: they may be changed in place.
        self._state = {name: dict(v) if type(v) is dict else v for name, v in vars(client).items()}
        self._client = client
        self._options = {**options, "method": "post", "url": PATH}
        self._request = client._build_request(self._final(b"{}"))  # noqa: SLF001  a contract test watches it

    def fits(self) -> bool:
        """Whether the client is as it was, and the SDK would not log what it does."""
        return vars(self._client) == self._state and not _is_logged()

    def request(self, content: bytes) -> httpx2.Request:
        """Return the request with that body."""
        made = self._request
        headers = httpx2.Headers(made.headers, encoding=made.headers.encoding)
        headers["Content-Length"] = str(len(content))
        stream = httpx2.ByteStream(content)
        request = httpx2.Request(
            made.method, made.url, headers=headers, stream=stream, extensions=made.extensions
        )
        request.read()
        return request

    def raw(self, response: httpx2.Response) -> LegacyAPIResponse[ChatCompletion]:
        """Return what the SDK's `post` would have returned."""
        return LegacyAPIResponse(
            raw=response,
            client=self._client,
            cast_to=ChatCompletion,
            stream=False,
            stream_cls=None,
            options=self._final(response.request.content),
        )

    def send(self, content: bytes) -> httpx2.Response:
        """Send a body; errors are the SDK's."""
        request = self.request(content)
        try:
            response = self._client._client.send(request)  # noqa: SLF001  the SDK's `_send_request`
        except Exception as error:
            self._raise(error, request)
            raise
        return self._checked(response)

    async def asend(self, content: bytes) -> httpx2.Response:
        """Send a body; errors are the SDK's."""
        request = self.request(content)
        try:
            response = await self._client._client.send(request)  # noqa: SLF001  as in `send`
        except Exception as error:
            self._raise(error, request)
            raise
        return self._checked(response)

    def _raise(self, error: Exception, request: httpx2.Request) -> None:
        if isinstance(error, timeout_exceptions()):
            raise openai.APITimeoutError(request=request) from error
        if isinstance(error, request_exceptions()) and not isinstance(error, openai.OpenAIError):
            raise openai.APIConnectionError(request=request) from error

    def _checked(self, response: httpx2.Response) -> httpx2.Response:
        if not response.is_success:
            raise self._client._make_status_error_from_response(response)  # noqa: SLF001  a contract test
        return response

    def _final(self, content: bytes) -> FinalRequestOptions:
        return FinalRequestOptions.construct(**self._options, content=content)


def template(client: Any, options: Any) -> Template | None:
    """Return what requests of a client can be copied from; None where the SDK has to make each of them."""
    if type(client._client) not in (ProcessBoundClient, LoopBoundAsyncClient):  # noqa: SLF001  the SDK's name
        return None
    if any(getattr(client, name, "unknown") is not None for name in _SIGNING):
        return None
    if client.max_retries or _is_logged():
        return None
    if isinstance(client, openai.AsyncOpenAI) and client._platform is None:  # noqa: SLF001  asked at its first call
        return None
    return Template(client, options)


def _is_logged() -> bool:
    return _sdk_log.isEnabledFor(logging.DEBUG)
