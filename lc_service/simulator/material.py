"""What a text offers to an answer: its best sentences, names, numbers, words.

Invariant: the same text gives the same material, in any language and of any length.
It only reads; `reply` and `schema` write with it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cached_property

READ_CHARACTERS = 20_000
"""Characters of a message that are looked at; the rest only counts as tokens."""

CJK_ENDS = "\u3002\uff01\uff1f"
"""The full-width full stop, exclamation mark and question mark."""

_OTHER_STOPS = "\u0964\u0965\u06d4\u104b\u17d4"
"""The danda, the double danda, the Urdu, Burmese and Khmer full stops; a space may be missing after them."""

_SENTENCE_END = re.compile(
    rf"(?<=[.!?؟…{_OTHER_STOPS}])\s+"
    rf"|(?<=[{CJK_ENDS}{_OTHER_STOPS}])(?:(?<=[{CJK_ENDS}])|(?=\w))"  # the first test rules out nearly all
    r"|\n+"
)
_TAGS = re.compile(r"(?:</?[\w:.-]+(?:\s[^<>]*)?/?>\s*)+")

# Vowel signs, harakat, tone marks, accents, and the joiners inside words: `re` has no class for them.
_MARKS = "\u200c\u200d" + "".join(
    mark
    for mark in map(chr, (*range(0x300, 0x2000), *range(0xA600, 0xAC00)))
    if unicodedata.category(mark).startswith("M")
)
_MARK = re.compile(f"[{_MARKS}]")
_CHARACTER = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # is a word by itself
_WORD = re.compile(rf"[^\W\d_]{{4,}}|{_CHARACTER}")
_MARKED_WORD = re.compile(rf"[^\W\d_](?:[^\W\d_]|[{_MARKS}]){{3,}}|{_CHARACTER}")
_NAME = re.compile(r"[A-ZÀ-ÖØ-Þ][\w'-]*(?:,? [A-ZÀ-ÖØ-Þ][\w'-]*)*")
_QUOTED = re.compile(r"(?<!\w)['\"`]([^'\"`\n]{1,80})['\"`](?!\w)|[“„«「]([^”“»」\n]{1,80})[”“»」]")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")


class Material:
    """A text, and what can be taken from it; each part is found when first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text[:READ_CHARACTERS].strip()

    @cached_property
    def sentences(self) -> list[str]:
        """The sentences, without a leading line that only announces them ("Summarise this:")."""
        lines = self.text.split("\n", 1)
        if len(lines) == 2 and lines[0].rstrip().endswith((":", "\uff1a")) and lines[1].strip():
            return self._split(lines[1])
        return self._split(self.text)

    @staticmethod
    def _split(text: str) -> list[str]:
        parts = [part.strip() for part in _SENTENCE_END.split(text)]
        # a line of nothing but tags, such as <document>, only delimits
        return [part for part in parts if part and not (part[0] == "<" and _TAGS.fullmatch(part))]

    @cached_property
    def _word(self) -> re.Pattern[str]:
        # the pattern that keeps marks takes twice as long, so it is for texts that have some
        has_marks = not self.text.isascii() and _MARK.search(self.text)
        return _MARKED_WORD if has_marks else _WORD

    @cached_property
    def ranked(self) -> list[int]:
        """Positions of the sentences, the most informative first: by their words' frequency."""
        words = [self._word.findall(sentence.lower()) for sentence in self.sentences]
        frequency = Counter(word for sentence in words for word in sentence)
        scores = [
            # the square root keeps long sentences from winning by length alone
            sum(frequency[word] for word in sentence) / max(4, len(sentence)) ** 0.5
            for sentence in words
        ]
        return sorted(range(len(scores)), key=lambda position: (-scores[position], position))

    @cached_property
    def names(self) -> list[str]:
        """Quoted strings, else capitalised runs, else keywords; a sentence's first word only last."""
        quoted = [a or b for a, b in _QUOTED.findall(self.text)]
        if quoted:
            return quoted
        openers: list[str] = []
        names: list[str] = []
        for sentence in self._split(self.text):
            for match in _NAME.finditer(sentence):
                is_opener = match.start() == 0 and " " not in match.group()
                (openers if is_opener else names).append(match.group())
        known = {name.lower() for name in openers}
        return names or [word for word in self.keywords if word not in known] or openers

    @cached_property
    def numbers(self) -> list[float]:
        """The numbers written in digits, in order."""
        return [float(number) for number in _NUMBER.findall(self.text)]

    @cached_property
    def keywords(self) -> list[str]:
        """Distinct words of four letters or more, vowel signs included, the most frequent first."""
        return [word for word, _ in Counter(self._word.findall(self.text.lower())).most_common(12)]

    def summary(self, variant: int = 0) -> str:
        """Return the one or two most informative sentences in the order of the text.

        Args:
            variant: Another number starts further down the ranking.
        """
        if not self.sentences:
            return " ".join(self.keywords)  # the text is empty, or nothing but tags
        count = 2 if len(self.sentences) > 3 else 1
        start = variant % len(self.ranked)
        chosen = sorted((self.ranked + self.ranked)[start : start + count])
        separator = "" if self.sentences[chosen[0]].endswith(tuple(CJK_ENDS)) else " "
        return separator.join(self.sentences[position] for position in chosen)
