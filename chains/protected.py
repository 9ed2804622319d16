"""Find what a translator must leave as it is: code, placeholders, links, tags, headings; and its loss.

The same text gives the same spans, in order, none over another. What stands in a span is not judged:
a text that only looks like a placeholder is kept too, which harms nothing.
"""

from __future__ import annotations

import re
from collections import Counter

from chains.parts import Span

_PROTECTED = re.compile(
    r"""
      ^[ \t]*(?P<mark>`{3,}+|~{3,}+)[^\n]*\n(?:.*?\n)??(?:[ \t]*(?P=mark)[`~]*[ \t\r]*$|\Z)  # fenced code
    | (?<!`)(?P<tick>`++)[^\n]+?(?<!`)(?P=tick)(?!`)                                         # inline code
    | <!--(?:(?!<!--|-->).)*-->
    | </?[A-Za-z][A-Za-z0-9:-]*(?:\s[^<>]*)?/?>                                              # tags
    | <[a-z][a-z0-9+.-]*:[^\s<>]*>                                                           # <https://...>
    | \{\{[^{}\n]{1,100}\}\} | \$\{[^{}\n]{1,100}\} | \{%[^\n]{1,100}?%\}                    # templates
    | \{[\w.!:\[\]<>=^+-]{0,60}\} | \{\{ | \}\}
    | %\(\w{1,60}\)[a-z] | %\d*\$?[sdif@]\b                                                  # printf
    | (?<=\]\()[^()\s]+(?=[)\s])                                                             # link targets
    | (?<![A-Za-z0-9])(?:https?|ftp|mailto|file):
      [\x21\x23-\x26\x28\x2a-\x3b\x3d\x3f-\x5a\x5c\x5e-\x5f\x61-\x7a\x7e]+                   # URLs
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^#{1,6}(?=[ \t])", re.MULTILINE)
_AFTER_URL = ".,;:!?*_'"


def find_protected(text: str) -> list[Span]:
    """Return the spans that a translation must keep, `(start, end)`, in order."""
    spans = []
    for found in _PROTECTED.finditer(text):
        span = found.group()
        kept = span.rstrip(_AFTER_URL) if ":" in span and span[0].isalpha() else span
        spans.append((found.start(), found.start() + len(kept)))
    return spans


def find_lost(source: str, translation: str) -> list[str]:
    """Return the protected spans that a translation has fewer times than its source, each once.

    Headings count by level: `##` is lost where the translation has fewer lines that start so.
    """
    wanted = Counter(source[start:end] for start, end in find_protected(source))
    lost = [span for span in wanted if translation.count(span) < source.count(span)]
    headings = Counter(_HEADING.findall(source)) - Counter(_HEADING.findall(translation))
    return lost + list(headings)


def has_words(text: str) -> bool:
    """Tell whether there is anything to translate beside protected spans."""
    start, outside = 0, []
    for span_start, span_end in find_protected(text):
        outside.append(text[start:span_start])
        start = span_end
    return any(char.isalpha() for piece in [*outside, text[start:]] for char in piece)


def has_protected(text: str) -> bool:
    """Tell whether a translation of the text must be looked at before it can be handed on."""
    return _PROTECTED.search(text) is not None or _HEADING.search(text) is not None
