"""The Markdown pages of the project: what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md")
    for path in sorted(ROOT.glob(pattern))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]


def _links(page: Path) -> list[str]:
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    inline = [child for token in tokens for child in token.children or []]
    targets = [str(child.attrs.get("href") or child.attrs.get("src") or "") for child in inline]
    return [target for target in targets if target and not re.match(r"\w+:", target)]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _links(page):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), target


def test_the_readme_links_every_page_of_the_docs_or_a_page_that_does() -> None:
    reached, new = set[Path](), [ROOT / "README.md"]
    while new:
        page = new.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        new += [(page.parent / target.partition("#")[0]).resolve() for target in _links(page)]
    assert {page for page in PAGES if page.parent == ROOT / "docs"} <= reached


def test_links_that_lead_nowhere_are_seen(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "[there](page.md#a-b) ![gone](gone.png) [out](https://example.org)\n\n# A, b\n"
    )
    assert _links(tmp_path / "page.md") == ["page.md#a-b", "gone.png"]
    assert _anchors(tmp_path / "page.md") == {"a-b"}
