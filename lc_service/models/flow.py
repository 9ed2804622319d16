"""Between a model and its rate limiter: which one it is, and what an attempt's end tells it.

Reads models, errors and records; changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.limits.admission import Outcome
from lc_service.limits.limiter import RateLimiter
from lc_service.limits.rate_limits import read_rate_limits
from lc_service.limits.registry import limiter_for
from lc_service.limits.told import DIMENSIONS, Dimension
from lc_service.models.request import Request
from lc_service.retry.errors import ErrorKind, classify

_SERVED = 200
_OVERLOADED_STATUSES = frozenset({503, 529})


def limiter_of(model: Any, request: Request, *, deployment: str | None = None) -> RateLimiter | None:
    """Return the limiter that a call goes through; None where the model's `rate_limits` is None.

    Args:
        model: A chat model or embeddings of LangChain's, with `rate_limits`.
        request: What it is asked.
        deployment: What has the limits by itself, whatever key or model name it is asked with.
    """
    limits = read_rate_limits(model.rate_limits)
    if limits is None:
        return None
    key = model.openai_api_key
    secret = key.get_secret_value() if isinstance(key, SecretStr) else key  # or a function that fetches it
    return limiter_for(
        limits,
        endpoint=str(request.server),
        credential=(secret, model.openai_organization) if deployment is None else (None, None),
        model=deployment or request.model,
    )


def outcome(error: BaseException | None, record: AttemptRecord) -> Outcome:
    """Return how an attempt ended, as far as rate limits go."""
    is_ok = record.status is AttemptStatus.OK
    is_admitted = True if is_ok or record.status_code == _SERVED else None
    used_tokens = record.usage.total_tokens if record.certainty is Certainty.MEASURED else None
    if error is None or not isinstance(error, Exception):
        return Outcome(
            is_admitted=is_admitted,
            used_tokens=used_tokens,
            latency_seconds=record.latency_seconds if is_ok and not record.is_stream else None,
        )
    verdict = classify(error)
    is_rejected = verdict.kind is ErrorKind.RATE_LIMIT
    return Outcome(
        is_admitted=False if is_rejected else is_admitted,
        is_rejected=is_rejected,
        is_overloaded=record.status_code in _OVERLOADED_STATUSES,
        exceeded=_exceeded(error) if is_rejected else None,
        retry_after_seconds=verdict.retry_after_seconds if is_rejected else None,
        used_tokens=used_tokens,
    )


def _exceeded(error: Exception) -> Dimension | None:
    """Return the limit that OpenAI's error names in its `type`."""
    said = getattr(error, "type", None)
    return next((name for name in DIMENSIONS if name == said), None)


def response_headers(error: BaseException | None) -> Mapping[str, str] | None:
    """Return the headers that an SDK's error keeps."""
    headers: Mapping[str, str] | None = getattr(getattr(error, "response", None), "headers", None)
    return headers
