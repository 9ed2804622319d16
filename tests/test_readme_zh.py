"""The Chinese README says what the English one says: same shape, code, links and figures, in Chinese."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TWIN = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")

LINK_BETWEEN_THEM = re.compile(r"^.*\]\(README(?:\.zh-CN)?\.md\).*\n\n", re.MULTILINE)
FIGURE = re.compile(r"\d+(?:[.,]\d+)*(?:\s?%)?")
# Names (lc_service, lc-service, MIT, OpenAI) stay as they are; a plain word has to be translated.
PLAIN_WORD = re.compile(r"(?<![\w.-])[A-Za-z]?[a-z]+(?![\w-]|\.\w)", re.ASCII)
FOUR_PLAIN_WORDS = re.compile(rf"(?:{PLAIN_WORD.pattern}[\s,.]+){{3}}{PLAIN_WORD.pattern}", re.ASCII)
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def _tokens(page: str) -> list[Token]:
    return MarkdownIt().enable("table").parse(LINK_BETWEEN_THEM.sub("", page, count=1))


def _outline(page: str) -> list[str]:
    return [f"{token.type} {token.tag}" for token in _tokens(page)]


def _code_blocks(page: str) -> list[str]:
    return [f"{token.info}\n{token.content}" for token in _tokens(page) if token.type == "fence"]


def _pieces(page: str) -> list[list[Token]]:
    """Headings, paragraphs, bullets and cells, each as what stands in it."""
    return [token.children or [] for token in _tokens(page) if token.type == "inline"]


def _prose(piece: list[Token]) -> str:
    return "".join({"text": token.content, "softbreak": "\n"}.get(token.type, "") for token in piece)


def _names_and_figures(piece: list[Token]) -> Counter[str]:
    links = [f"]({token.attrs['href']})" for token in piece if token.type == "link_open"]
    code = [f"`{token.content}`" for token in piece if token.type == "code_inline"]
    figures = [re.sub(r"\s", "", figure) for figure in FIGURE.findall(_prose(piece))]
    return Counter(links + code + figures)


def _differences(twin: str, readme: str = README) -> Iterator[str]:
    if _outline(twin) != _outline(readme):
        yield "outline"
    if _code_blocks(twin) != _code_blocks(readme):
        yield "code"
    for ours, theirs in zip(_pieces(twin), _pieces(readme), strict=False):
        if _names_and_figures(ours) != _names_and_figures(theirs):
            yield f"names and figures: {_prose(ours)}"
        if PLAIN_WORD.search(_prose(theirs)) and not CHINESE.search(_prose(ours)):
            yield f"English: {_prose(ours)}"
        if found := FOUR_PLAIN_WORDS.search(_prose(ours)):
            yield f"English: {found[0]}"
        # a renderer makes a space of a line's end, and leaves ** as it is beside a Chinese full stop
        if re.search(r"[*\n]", _prose(ours)):
            yield f"typography: {_prose(ours)}"


def test_the_twin_says_the_same_in_chinese():
    assert list(_differences(TWIN)) == []


def test_there_is_something_to_compare():
    assert len(_code_blocks(README)) >= 10
    assert len(_pieces(README)) >= 100
    assert sum(1 for piece in _pieces(README) for name in _names_and_figures(piece) if "](" in name) >= 20


def test_each_links_the_other_at_the_top():
    assert "](README.md)" in TWIN.splitlines()[2]
    assert "](README.zh-CN.md)" in README.splitlines()[2]


@pytest.mark.parametrize(
    ("pattern", "replacement", "difference"),
    [
        pytest.param(r"^### .+\n", "", "outline", id="a heading is gone"),
        pytest.param(r"^### ", "## ", "outline", id="a heading is on another level"),
        pytest.param(r"^\| `LC_SERVICE_MODEL`.+\n", "", "outline", id="a row is gone"),
        pytest.param(r"^- .+\n", "", "outline", id="a bullet is gone"),
        pytest.param(r"batch\(\[", "invoke([", "code", id="code is changed"),
        pytest.param(r"^```python", "```py", "code", id="code is in another language"),
        pytest.param(r"2%", "3%", "names and figures", id="a figure is changed"),
        pytest.param(r"\| 600 \|", "| 60 |", "names and figures", id="a default is changed"),
        pytest.param(
            "`LC_SERVICE_LEDGER`", "`LC_SERVICE_LEDGERS`", "names and figures", id="a variable is changed"
        ),
        pytest.param(r"\(docs/cli\.md\)", "(docs/chains.md)", "names and figures", id="a link is changed"),
        pytest.param(r"^## .+$", "## Use it", "English", id="a heading is left in English"),
        pytest.param(r"(?<=`OPENAI_API_KEY` \| )\S+", "the key", "English", id="a cell is left in English"),
        pytest.param(r"^(?=`lc_service`)", "Nobody has translated this.", "English", id="a sentence is left"),
        pytest.param(r"^- \*\*(.+?)\*\* ", r"- **\1**文", "typography", id="bold does not render"),
        pytest.param(r"^(- .{20})", r"\1\n  ", "typography", id="a line ends within a sentence"),
    ],
)
def test_a_difference_is_seen(pattern: str, replacement: str, difference: str):
    changed, times = re.subn(pattern, replacement, TWIN, count=1, flags=re.MULTILINE)
    assert times == 1
    assert any(found.startswith(difference) for found in _differences(changed))
