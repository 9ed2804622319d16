"""Embeddings: unit vectors in which texts that share words and letters lie close.

Invariant: the same text gives the same vector on every machine; order and index follow the input.
Words and letter triples are hashed into the vector; there is no model and no meaning beyond that.
"""

from __future__ import annotations

import array
import base64
import math
import re
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from lc_service.simulator.bill import Usage
from lc_service.simulator.errors import ApiError
from lc_service.simulator.prompt import read_model
from lc_service.simulator.tokens import count_tokens

MAX_INPUT_TOKENS = 8_192
"""Tokens one input may have."""

MAX_INPUTS = 2_048
"""Inputs one request may have."""

_WORD = re.compile(r"\w+")
_DIMENSIONS = {"text-embedding-3-large": 3_072}
_DEFAULT_DIMENSIONS = 1_536


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingRequest:
    """A request for embeddings; its answer costs exactly its input.

    Attributes:
        model: As asked for.
        inputs: Texts, or lists of token numbers.
        dimensions: Length of each vector.
        is_base64: Whether vectors are sent as little-endian float32 in base64.
        input_tokens: Tokens of all inputs.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int
    is_base64: bool
    input_tokens: int

    @property
    def admission_tokens(self) -> int:
        """What the rate limit charges."""
        return self.input_tokens

    @property
    def usage(self) -> Usage:
        """What the answer costs."""
        return Usage(input_tokens=self.input_tokens)

    def usage_after(self, visible_tokens: int) -> Usage:  # noqa: ARG002
        """Return what an interrupted answer costs: the same."""
        return self.usage


def read_embeddings(request: Mapping[str, Any]) -> EmbeddingRequest:
    """Read the body of an embeddings request."""
    model = read_model(request)
    inputs = _read_inputs(request.get("input"))
    tokens = 0
    for index, item in enumerate(inputs):
        size = count_tokens(item) if isinstance(item, str) else len(item)
        if size > MAX_INPUT_TOKENS:
            raise ApiError(
                400,
                f"Invalid 'input[{index}]': maximum context length is {MAX_INPUT_TOKENS} tokens, "
                f"however you requested {size} tokens. Please reduce your prompt.",
                param="input",
            )
        tokens += size
    full = _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    dimensions = request.get("dimensions")
    if dimensions is None:
        dimensions = full
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or (not 1 <= dimensions <= full):
        raise ApiError(
            400, f"Invalid 'dimensions': expected an integer from 1 to {full}.", param="dimensions"
        )
    form = request.get("encoding_format") or "float"
    if form not in {"float", "base64"}:
        raise ApiError(
            400, f"Invalid value: {form!r}. Supported values are: 'float' and 'base64'.",
            param="encoding_format",
        )  # fmt: skip
    return EmbeddingRequest(
        model=model,
        inputs=inputs,
        dimensions=dimensions,
        is_base64=form == "base64",
        input_tokens=tokens,
    )


def _read_inputs(given: object) -> tuple[str | tuple[int, ...], ...]:
    items = [given] if isinstance(given, str) or _is_token_list(given) else given
    if not isinstance(items, list) or not items or len(items) > MAX_INPUTS:
        raise ApiError(
            400,
            f"Invalid 'input': expected a string or an array of 1 to {MAX_INPUTS} strings or token arrays.",
            param="input",
        )
    inputs: list[str | tuple[int, ...]] = []
    for item in items:
        if isinstance(item, str) and item:
            inputs.append(item)
        elif _is_token_list(item):
            inputs.append(tuple(item))
        else:
            raise ApiError(400, "Invalid 'input': input cannot be an empty string, and every item "
                           "must be a string or an array of tokens.", param="input")  # fmt: skip
    return tuple(inputs)


def _is_token_list(item: object) -> bool:
    return isinstance(item, list) and bool(item) and all(type(token) is int for token in item)


def embedding_list(request: EmbeddingRequest, number: int, *, is_finished: bool = True) -> bytes:
    """Return the body of the answer.

    Args:
        request: What to embed.
        number: The request's number; not shown, embeddings have no ids.
        is_finished: Without effect: embeddings have no finish_reason.
    """
    del number, is_finished
    data = []
    for index, item in enumerate(request.inputs):
        vector: list[float] | str = embed(item, request.dimensions)
        if request.is_base64:
            floats = array.array("f", vector)
            if sys.byteorder == "big":
                floats.byteswap()
            vector = base64.b64encode(floats.tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = request.input_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": data, "model": request.model, "usage": usage})


def embed(item: str | tuple[int, ...], dimensions: int) -> list[float]:
    """Return the unit vector of a text or a list of tokens.

    Args:
        item: What to embed.
        dimensions: Length of the vector.
    """
    vector = [0.0] * dimensions
    for feature, weight in _features(item):
        code = zlib.crc32(feature.encode())
        # a sign bit of its own keeps unrelated texts near zero instead of near each other
        vector[(code >> 1) % dimensions] += weight if code & 1 else -weight
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0:
        vector[0] = norm = 1.0
    return [value / norm for value in vector]


def _features(item: str | tuple[int, ...]) -> list[tuple[str, float]]:
    if not isinstance(item, str):
        return [(f"token {token}", 1.0) for token in item]
    text = item.lower()
    words = _WORD.findall(text)
    features = [(f"word {word}", 1.0) for word in words]
    for word in words:
        padded = f" {word} "
        features += [(padded[i : i + 3], 0.4) for i in range(len(padded) - 2)]
    return features or [(text, 1.0)]
