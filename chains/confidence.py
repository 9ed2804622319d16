"""Read from a message's log probabilities how sure the model was of a part of what it wrote.

Invariant: a confidence is a probability of exactly those words, or None; it is never a guess. It does
not ask for log probabilities (`model.bind(logprobs=True)` does), and it does not calibrate them.
"""

from __future__ import annotations

import json
import math
from typing import Any

from langchain_core.messages import BaseMessage


def confidences(message: BaseMessage, values: list[str]) -> list[float | None]:
    """Return the probability, 0 to 1, of each of the JSON strings `values` where the message has it.

    It is the product over the tokens that write the string, its closing quote included: only that quote
    tells "bill" from "billing".

    Args:
        message: A model's answer, whose text is a JSON object of one key.
        values: Strings of that JSON, in the order in which they stand there.
    """
    tokens = _tokens(message)
    written = b"".join(text for text, _ in tokens)
    found: list[float | None] = []
    position = written.find(b":") + 1  # the key may be one of the values
    for value in values:
        start, end = _find(written, value, position)
        position = max(position, end)
        found.append(_probability(tokens, start, end) if end else None)
    return found


def _tokens(message: BaseMessage) -> list[tuple[bytes, float]]:
    logprobs = message.response_metadata.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [(_bytes(token), float(token["logprob"])) for token in content or []]


def _bytes(token: dict[str, Any]) -> bytes:
    # a token can be part of a character, which only its bytes tell
    given = token.get("bytes")
    return bytes(given) if given else str(token["token"]).encode()


def _find(written: bytes, value: str, position: int) -> tuple[int, int]:
    """Return where the value stands, without its opening and with its closing quote; (0, 0) if nowhere."""
    for is_ascii in (False, True):
        quoted = json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")
        start = written.find(quoted, position)
        if start >= 0:
            return start + 1, start + len(quoted)
    return 0, 0


def _probability(tokens: list[tuple[bytes, float]], start: int, end: int) -> float:
    total, position = 0.0, 0
    for text, logprob in tokens:
        if position < end and position + len(text) > start:
            total += logprob
        position += len(text)
    return min(1.0, math.exp(total))
