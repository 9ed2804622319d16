"""The examples of docs/chains.md run, each section in a namespace of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import chains

DOCS = Path(chains.__file__).parents[1] / "docs" / "chains.md"
BOATS = (
    '{"items": [{"name": "Aurora", "built": "1912-01-01", "length_meters": 12}, '
    '{"name": "Möwe", "built": null, "length_meters": 4}]}'
)
SCRIPTS = {
    "extract": ([BOATS], "['Aurora', 'Möwe']\n"),
    "classify": (['{"label": "billing"}'], r"billing 0\.\d+\n"),
    "answer_with_sources": (
        ['{"is_answered": true, "answer": "At dusk.", "citations": [1]}'],
        r"At dusk\. rules\.txt 0\.\d+\n",
    ),
    "route": (['{"label": "translate"}', "Good morning!"], "Good morning!"),
    "critique_and_revise": (
        ["Wet.", '{"problems": ["Hm."], "is_good": false}', "It hums.", '{"problems": [], "is_good": true}'],
        "It hums.\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", SCRIPTS)
def test_the_example_runs(task, server, capsys):
    _, section = DOCS.read_text(encoding="utf-8").split(f"\n## {task}\n")
    (code,) = re.findall(r"^```python\n(.*?)^```", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    script, printed = SCRIPTS[task]
    server.says(*script)
    given = {"model": server.model(), "embeddings": server.embeddings(), "__name__": "docs"}
    exec(compile(code, str(DOCS), "exec", dont_inherit=True), given)
    out = capsys.readouterr().out
    assert out == printed or re.fullmatch(printed, out)
    assert not server.script
