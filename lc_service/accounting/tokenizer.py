"""Count tokens without internet: exactly where tiktoken's files are, else by an estimate that learns.

Invariant: a count is never negative, never raises on any text, never downloads, and takes linear time.
docs/token-estimates.md has the errors. Prompts, with messages and tools, are counted in `prompt`.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from lc_service.accounting.encoding import load_encoding

if TYPE_CHECKING:
    from tiktoken import Encoding

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
        self._lock = threading.RLock()
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
                    self._encoding, self._is_loaded = load_encoding(self.model), True
        return self._encoding


_estimators: dict[str, TokenEstimator] = {}
_estimators_lock = threading.RLock()


def estimator_for(model: str) -> TokenEstimator:
    """Return the one estimator of this model that the process shares. Thread-safe."""
    with _estimators_lock:
        if (estimator := _estimators.get(model)) is None:
            estimator = _estimators[model] = TokenEstimator(model)
        return estimator
