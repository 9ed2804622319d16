"""Say what went wrong in one line that is safe to print.

An error's own text may quote a key or a prompt: only its kind, class, status and request id are used.
"""

from __future__ import annotations

from lc_service.retry.errors import ErrorKind, classify

_WORDS = {
    ErrorKind.AUTHENTICATION: "the API key was refused",
    ErrorKind.PERMISSION: "the API key may not do this",
    ErrorKind.QUOTA_EXHAUSTED: "the account's quota is used up",
    ErrorKind.NOT_FOUND: "the server does not know this model or URL",
    ErrorKind.CONFIGURATION: "the connection is not set up right",
    ErrorKind.CONNECTION: "the server cannot be reached",
    ErrorKind.TIMEOUT: "the server did not answer in time",
    ErrorKind.RATE_LIMIT: "the rate limit was hit too often",
    ErrorKind.SERVER_ERROR: "the server failed",
    ErrorKind.TRUNCATED: "the answer broke off",
    ErrorKind.MALFORMED: "the server sent no API answer",
    ErrorKind.CONTEXT_OVERFLOW: "the prompt is too long for the model",
}
# What no other call would fare better with.
_HOPELESS = (
    ErrorKind.AUTHENTICATION,
    ErrorKind.PERMISSION,
    ErrorKind.QUOTA_EXHAUSTED,
    ErrorKind.NOT_FOUND,
    ErrorKind.CONFIGURATION,
)


def describe(error: Exception) -> str:
    """Return what `error` means, with its class, status and request id."""
    verdict = classify(error)
    facts = [type(error).__name__]
    if verdict.status_code is not None:
        facts.append(f"HTTP {verdict.status_code}")
    if verdict.request_id is not None:
        facts.append(f"request id {verdict.request_id}")
    return f"{_WORDS.get(verdict.kind, verdict.kind)} ({', '.join(facts)})"


def is_hopeless(error: Exception) -> bool:
    """Tell whether every other call would fail as this one did: key, account, model or URL are wrong."""
    return classify(error).kind in _HOPELESS
