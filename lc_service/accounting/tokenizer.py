"""Count tokens without internet: exactly where tiktoken's files are, else by an estimate that learns.

Invariant: a count is never negative, never raises on any text, never downloads, and takes linear time.
Does not know chat templates, hidden prompts or the size of pictures; docs/token-estimates.md has the errors.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiktoken import Encoding

MESSAGE_TOKENS = 3
"""Tokens each message costs beyond its role and text, and so does priming the answer."""
IMAGE_TOKENS = 765
"""Tokens taken for a picture: 85 + 170 for each of the four tiles of 1024 x 1024; size unknown here."""
LOW_DETAIL_IMAGE_TOKENS = 85
"""Tokens of a picture sent with `detail: low`, whatever its size."""
MAX_EXACT_CHARACTERS = 50_000
"""Longer texts are estimated: on a text without spaces tiktoken's time grows faster than the text."""

# Neighbours cost a quarter token for each of the low five bits in which their codes differ, so a word pays
# where it begins and ends, and a change of kind inside it pays too. The three high bits are paid by every
# character that has them. A space is 0. Found by a search over codes against true counts (docs).
_LOWER, _UPPER, _DIGIT, _BREAK, _SIGN, _EMOJI = 0x11, 0x24, 0x3E, 0x15, 0x24, 0xE4
_PAIR_BITS = 0x1F
_TOKENS_PER_BIT = 0.235
_TOKENS_PER_CHARACTER = 0.02
_BLOCK_BYTES = 65_536
_PAIR_MASK = int.from_bytes(bytes([_PAIR_BITS]) * (_BLOCK_BYTES + 1), "little")


def _code(byte: int) -> int:
    character = chr(byte)
    if byte >= 0xF0:  # first byte of emoji and other characters of four bytes
        return _EMOJI
    if byte >= 0x80 or character.islower():  # first byte of an alphabet's letter
        return _LOWER
    if character.isupper():
        return _UPPER
    if character.isdigit():
        return _DIGIT
    return {" ": 0, "\n": _BREAK, "\r": _BREAK, "\t": _BREAK}.get(character, _SIGN)


_CODES = bytes(map(_code, range(256)))
# Continuation bytes, and the first bytes of the characters that are counted, not compared: U+2000 up to
# U+FFFF, which is Chinese, Japanese, Korean and symbols. U+0800 to U+1FFF stay letters.
_DROPPED = bytes([*range(0x80, 0xC2), *range(0xE2, 0xF0), *range(0xF5, 0x100)])

# Tokens of one such dropped character; tokens of each byte beyond the first of all other characters
_NEW_VOCABULARY = (0.80, 0.18)
_OLD_VOCABULARY = (1.15, 0.60)
_OLD_MODEL = re.compile(r"(ft:)?(gpt-3|gpt-4(?!o|\.\d)|text-embedding-|davinci|babbage)")

_MEMORY = 0.96  # an answer's say fades by 4 % with every later one: about 25 answers count
_PRIOR_TOKENS = 100.0
_MAX_SURPRISE = 2.0  # no answer speaks for more than twice, or less than half, of what was expected
_MAX_WEIGHT = 4.0  # nor for more than four average ones
_MAX_TOKENS = 1e9
_SCALE_RANGE = (1 / 16, 16.0)


class TokenEstimator:
    """Counts the tokens of one model's texts. Thread-safe; `estimator_for` gives the shared one.

    Args:
        model: Name of the model as it is sent. Azure deployments and other vendors' models are unknown to
            tiktoken, so they are estimated; their answers calibrate the estimate.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        is_old = _OLD_MODEL.match(model) is not None
        self._wide_tokens, self._byte_tokens = _OLD_VOCABULARY if is_old else _NEW_VOCABULARY
        self._lock = threading.Lock()
        self._is_loaded = False
        self._encoding: Encoding | None = None
        # one made-up answer, right on the dot, which fades like all others
        self._answers, self._raw, self._true = 1.0, _PRIOR_TOKENS, _PRIOR_TOKENS
        self._scale = 1.0

    @property
    def is_exact(self) -> bool:
        """Whether tiktoken's file for this model is on this machine.

        Looked up once, at the first use, which then takes about half a second to read it.
        """
        return self._find_encoding() is not None

    @property
    def scale(self) -> float:
        """What a raw estimate is multiplied with, as learnt so far; 1.0 at the start."""
        return self._scale

    def count(self, text: str) -> int:
        """Count exactly where `is_exact` and the text has at most 50,000 characters, else estimate."""
        if len(text) <= MAX_EXACT_CHARACTERS and (encoding := self._find_encoding()) is not None:
            try:
                return len(encoding.encode_ordinary(text))
            except Exception:  # noqa: BLE001  a text tiktoken cannot take is still a text
                return self.estimate(text)
        return self.estimate(text)

    def estimate(self, text: str) -> int:
        """Estimate with what was learnt; 0 only for the empty text."""
        return self.scaled(self.raw(text))

    def scaled(self, raw_tokens: float) -> int:
        """Turn a raw estimate into a calibrated one."""
        return max(1, round(raw_tokens * self._scale)) if raw_tokens > 0 else 0

    def raw(self, text: str) -> float:
        """Estimate as if nothing had been learnt. The formula is explained in docs/token-estimates.md."""
        data = text.encode("utf-8", "surrogatepass")
        codes = data.translate(_CODES, _DROPPED)
        bits = 0
        for start in range(0, len(codes), _BLOCK_BYTES):
            block = int.from_bytes(codes[start : start + _BLOCK_BYTES], "little")
            bits += (block ^ ((block << 8) & _PAIR_MASK)).bit_count()
        tokens = bits * _TOKENS_PER_BIT + len(codes) * _TOKENS_PER_CHARACTER
        if len(data) != len(text):
            wide = len(text) - len(codes)  # three bytes each
            tokens += wide * self._wide_tokens + (len(data) - len(text) - 2 * wide) * self._byte_tokens
        return tokens

    def calibrate(self, estimated_tokens: float, true_tokens: int) -> None:
        """Learn from an answer.

        The raw estimate is asked for, not the calibrated one: many calls are in flight at once, and the
        scale that one of them was estimated with is no longer the scale when its answer comes.

        Args:
            estimated_tokens: `PromptEstimate.raw_tokens` of what was sent, or a sum of `raw`. Less than 1
                (0 stands for a prompt from which nothing can be learnt) changes nothing.
            true_tokens: Prompt tokens the server counted, cached ones included. Less than 1, or more than a
                thousand million, changes nothing.
        """
        if not (1 <= estimated_tokens <= _MAX_TOKENS and 1 <= true_tokens <= _MAX_TOKENS):
            return
        with self._lock:
            scale = self._scale
            weight = min(estimated_tokens, _MAX_WEIGHT * self._raw / self._answers)
            ratio = min(max(true_tokens / estimated_tokens, scale / _MAX_SURPRISE), scale * _MAX_SURPRISE)
            self._answers = self._answers * _MEMORY + 1
            self._raw = self._raw * _MEMORY + weight
            self._true = self._true * _MEMORY + weight * ratio
            self._scale = min(max(self._true / self._raw, _SCALE_RANGE[0]), _SCALE_RANGE[1])

    def _find_encoding(self) -> Encoding | None:
        if not self._is_loaded:
            with self._lock:
                if not self._is_loaded:
                    self._encoding, self._is_loaded = _load_encoding(self.model), True
        return self._encoding


_estimators: dict[str, TokenEstimator] = {}
_estimators_lock = threading.Lock()


def estimator_for(model: str) -> TokenEstimator:
    """Return the one estimator of this model that the process shares. Thread-safe."""
    with _estimators_lock:
        if (estimator := _estimators.get(model)) is None:
            estimator = _estimators[model] = TokenEstimator(model)
        return estimator


@dataclass(frozen=True, slots=True)
class PromptEstimate:
    """Tokens of one request's prompt.

    Attributes:
        tokens: The count to work with: exact where it can be, else calibrated.
        raw_tokens: What to hand to `calibrate` when the answer comes; 0 for a prompt with pictures, sounds
            or files, from which nothing can be learnt about text.
    """

    tokens: int
    raw_tokens: int


def count_messages(
    estimator: TokenEstimator,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> int:
    """Count the prompt of a request, messages and tools as Chat Completions takes them.

    Adds what OpenAI documents around the text: 3 tokens and the role for each message, 1 for a name, 3 for
    the answer's priming; for tools its cookbook's figures for functions. A picture counts a flat 765 (85 with
    `detail: low`), a sound or a file too: their true size is not known here.
    """
    return estimate_prompt(estimator, messages, tools).tokens


def estimate_prompt(
    estimator: TokenEstimator,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> PromptEstimate:
    """Count as `count_messages` does, and keep the raw estimate for `calibrate`."""
    prompt = _Prompt()
    for message in messages:
        prompt.add_message(message)
    if tools:
        prompt.add_tools(tools)
    raw = prompt.fixed_tokens + sum(map(estimator.raw, prompt.texts))
    if estimator.is_exact:
        tokens = prompt.fixed_tokens + sum(map(estimator.count, prompt.texts))
    else:
        tokens = estimator.scaled(raw)
    has_media = prompt.media_tokens > 0
    return PromptEstimate(tokens + prompt.media_tokens, 0 if has_media else round(raw))


class _Prompt:
    """A prompt taken apart: texts to count, and tokens that stand for all the rest."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fixed_tokens = MESSAGE_TOKENS
        self.media_tokens = 0

    def add_message(self, message: Mapping[str, Any]) -> None:
        self.fixed_tokens += MESSAGE_TOKENS + 1  # a role is one token
        if name := message.get("name"):
            self.fixed_tokens += 1
            self.texts.append(str(name))
        content = message.get("content")
        for part in content if isinstance(content, list | tuple) else (content, message.get("refusal")):
            self._add_part(part)
        calls = [*(message.get("tool_calls") or ()), {"function": message.get("function_call")}]
        for call in calls:
            if function := call.get("function") or call.get("custom"):
                self.fixed_tokens += MESSAGE_TOKENS
                self._add_texts(function.get("name"), function.get("arguments"), function.get("input"))

    def _add_part(self, part: object) -> None:
        if not isinstance(part, Mapping):
            self._add_texts(part)
            return
        if (text := part.get("text") or part.get("refusal")) is not None or part.get("type") == "text":
            self._add_texts(text)
            return
        image = part.get("image_url")
        detail = image.get("detail") if isinstance(image, Mapping) else part.get("detail")
        self.media_tokens += LOW_DETAIL_IMAGE_TOKENS if detail == "low" else IMAGE_TOKENS

    def add_tools(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Add tools by the figures OpenAI's cookbook has for functions: the server rewrites their schemas."""
        self.fixed_tokens += 12 + 7 * len(tools)
        schemas: list[object] = []
        for tool in tools:
            function = tool.get("function") or tool.get("custom") or tool
            self.texts.append(f"{function.get('name')}:{_description(function)}")
            schemas.append(function.get("parameters"))
        while schemas:
            schema = schemas.pop()
            if isinstance(schema, list | tuple):
                schemas += schema
            elif isinstance(schema, Mapping):
                self._add_schema(schema)
                schemas += [schema.get(key) for key in _NESTED]
                for group in _NAMED:
                    schemas += (schema.get(group) or {}).values()

    def _add_schema(self, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties") or {}
        self.fixed_tokens += 3 * bool(properties) + 3 * len(properties)
        for name, value in properties.items():
            value = value if isinstance(value, Mapping) else {}  # noqa: PLW2901  `true` is a schema too
            self.texts.append(f"{name}:{value.get('type', '')}:{_description(value)}")
        choices = schema.get("enum") or ()
        self.fixed_tokens += 3 * max(0, len(choices) - 1)
        self._add_texts(*choices)

    def _add_texts(self, *texts: object) -> None:
        self.texts += [str(text) for text in texts if text is not None]


def _description(described: Mapping[str, Any]) -> str:
    return str(described.get("description") or "").removesuffix(".")


_NESTED = ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties")
_NAMED = ("properties", "$defs", "definitions")


def _load_encoding(model: str) -> Encoding | None:
    """Load tiktoken's encoding if nothing has to be downloaded for it; any failure means there is none."""
    try:
        directory = _cache_directory()
        if directory is None or not any(directory.iterdir()):
            return None
        import tiktoken  # noqa: PLC0415  only where a file may be there
        from tiktoken import registry  # noqa: PLC0415

        name = tiktoken.encoding_name_for_model(model)
        tiktoken.list_encoding_names()  # finds the constructors
        constructors: Mapping[str, Callable[[], dict[str, Any]]] = registry.ENCODING_CONSTRUCTORS or {}
        urls, hashes = _sources(name, constructors)
        if not urls or len(urls) != len(hashes):
            return None
        for url in urls:
            cached = directory / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
            # tiktoken removes a file of another hash and fetches it again
            if hashlib.sha256(cached.read_bytes()).hexdigest() not in hashes:
                return None
        return tiktoken.get_encoding(name)
    except Exception:  # noqa: BLE001  never a failure: there is the estimate
        return None


def _cache_directory() -> Path | None:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if (value := os.environ.get(variable)) is not None:
            return Path(value) if value else None  # empty switches tiktoken's cache off
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def _sources(
    name: str, constructors: Mapping[str, Callable[[], dict[str, Any]]]
) -> tuple[set[str], set[str]]:
    """Read which URLs an encoding is loaded from, and their SHA-256, off its constructor's constants.

    Nothing is called: calling it would download. One that builds on another names it.
    """
    code: CodeType = constructors[name].__code__
    urls = {text for text in _texts(code.co_consts) if "://" in text}
    hashes = {text for text in _texts(code.co_consts) if re.fullmatch("[0-9a-f]{64}", text)}
    for other in set(code.co_names) & set(constructors) - {name}:
        more_urls, more_hashes = _sources(other, constructors)
        urls, hashes = urls | more_urls, hashes | more_hashes
    return urls, hashes


def _texts(constants: Sequence[object]) -> Iterator[str]:
    return (constant for constant in constants if isinstance(constant, str))
