"""What differs between OpenAI and Azure around an answer: the key's header, errors, further headers.

Invariant: it changes words and headers, never what is served, limited or billed.
It reads requests' heads; the paths and the answers of Azure are in `azure`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from lc_service.simulator.errors import ApiError, Headers
from lc_service.simulator.exchange import Exchange

AZURE_ROOT = "/openai/"
"""What all of Azure's paths begin with."""

_REGION = b"swedencentral"
_NEVER_SECONDS = 86_400


class OpenAIDialect:
    """OpenAI's own ways."""

    def key(self, exchange: Exchange) -> str:
        """Return the key that a request came with; empty where there is none."""
        scheme, _, key = exchange.header(b"authorization").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def deployment(self, exchange: Exchange, request: Mapping[str, Any]) -> str | None:
        """Return the deployment that a request asks for; None where there are none."""
        del exchange, request
        return None

    def check(self, exchange: Exchange) -> None:
        """Raise `ApiError` where the request's head lacks what it must have."""

    def headers(self, number: int, headers: Headers, *, is_error: bool = False) -> Headers:
        """Return the headers of an answer.

        Args:
            number: The request's number.
            headers: Those of the limits, or of the error.
            is_error: Whether the answer is an error.
        """
        del is_error
        return [(b"x-request-id", b"req_%06d" % number), *headers]

    def error(self, error: ApiError) -> ApiError:
        """Return an error as it is worded here."""
        return error


class AzureDialect(OpenAIDialect):
    """Azure OpenAI's ways: a gateway before OpenAI's server, with words and headers of its own.

    A 400 without a code, which the `bad_request` fault sends, is worded as its content filter's. What can
    never fit is told to come back in a day, as Azure does.
    """

    def key(self, exchange: Exchange) -> str:
        """Return the `api-key`, or else the bearer token."""
        return exchange.header(b"api-key") or super().key(exchange)

    def deployment(self, exchange: Exchange, request: Mapping[str, Any]) -> str | None:
        """Return the deployment in the path, or else what the body calls the model."""
        in_path = exchange.scope.get("path_params", {}).get("deployment")
        name = request.get("model") if in_path is None else in_path
        return name if isinstance(name, str) else None

    def check(self, exchange: Exchange) -> None:
        """Refuse a request without `api-version`, which the v1 paths do not need."""
        is_v1 = exchange.scope["path"].startswith(AZURE_ROOT + "v1/")
        if not is_v1 and not re.search(rb"(^|&)api-version=[^&]", exchange.scope["query_string"]):
            raise ApiError(404, "Resource not found", code="404")

    def headers(self, number: int, headers: Headers, *, is_error: bool = False) -> Headers:
        """Return the gateway's headers; resets are whole seconds, and its errors have no `x-request-id`."""
        request_id = b"%08d-0000-4000-8000-000000000000" % number
        own = [(b"apim-request-id", request_id), (b"x-ms-region", _REGION)]
        if not is_error:
            own += [(b"x-request-id", request_id), (b"azureml-model-session", b"d000-simulator")]
        return [*own, *((name, _in_seconds(name, value)) for name, value in headers)]

    def error(self, error: ApiError) -> ApiError:
        """Return an error as the gateway words it; what OpenAI's server behind it says stays."""
        if error.status == 401:
            return _reworded(
                error, "401", "Access denied due to invalid subscription key or wrong API endpoint."
            )
        if error.status == 404 and error.code in (None, "404"):
            return _reworded(error, "404", "Resource not found")
        if error.status == 429 and error.code == "rate_limit_exceeded":
            return _throttled(error)
        if error.status == 400 and error.code is None and error.param is None:
            return _filtered(error)
        return error


OPENAI = OpenAIDialect()
AZURE = AzureDialect()


def dialect_of(path: str) -> OpenAIDialect:
    """Return the dialect that is spoken under a path."""
    return AZURE if path.startswith(AZURE_ROOT) else OPENAI


class _AzureError(ApiError):
    """An error whose object has no more than code and message, and what the content filter adds."""

    details: Mapping[str, Any] = {}

    @property
    def error(self) -> dict[str, Any]:
        """The object under `"error"`."""
        return {"code": self.code, "message": self.message, **self.details}


def _reworded(error: ApiError, code: str, message: str) -> _AzureError:
    return _AzureError(error.status, message, error.kind, code=code, headers=error.headers)


def _throttled(error: ApiError) -> ApiError:
    told = dict(error.headers).get(b"retry-after")
    headers = error.headers
    seconds = told.decode() if told is not None else "60"
    if error.message.startswith("Request too large"):
        seconds = str(_NEVER_SECONDS)
        headers = [*headers, (b"retry-after", seconds.encode())]
    what = "token" if error.kind == "tokens" else "call"
    message = (
        f"Requests to the ChatCompletions_Create Operation have exceeded {what} rate limit of your current "
        f"OpenAI S0 pricing tier. Please retry after {seconds} seconds."
    )
    made = _reworded(error, "429", message)
    made.headers = headers
    return made


def _filtered(error: ApiError) -> ApiError:
    made = _reworded(
        error, "content_filter", "The response was filtered due to the prompt triggering content management."
    )
    verdict = {"hate": {"filtered": True, "severity": "high"}}
    made.details = {
        "param": "prompt",
        "type": None,
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": verdict},
    }
    return made


_UNITS_SECONDS = {b"h": 3600.0, b"m": 60.0, b"s": 1.0, b"ms": 0.001}


def _in_seconds(name: bytes, value: bytes) -> bytes:
    """Write a reset's duration as whole seconds, rounded up."""
    if not name.startswith(b"x-ratelimit-reset-"):
        return value
    parts = re.findall(rb"([\d.]+)(ms|[hms])", value)
    return b"%d" % math.ceil(sum(float(number) * _UNITS_SECONDS[unit] for number, unit in parts))


def unknown_deployment() -> ApiError:
    """Return the 404 of a deployment that is not there."""
    message = "The API deployment for this resource does not exist."
    return _AzureError(404, message, code="DeploymentNotFound")
