"""The examples of docs/chains.md run, each section in a namespace of its own."""

from __future__ import annotations

import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest
from langchain_core.prompts import ChatPromptTemplate

import chains
from chains import prompt_fingerprint

DOCS = Path(chains.__file__).parents[1] / "docs" / "chains.md"
BOATS = (
    '{"items": [{"name": "Aurora", "built": "1912-01-01", "length_meters": 12}, '
    '{"name": "Möwe", "built": null, "length_meters": 4}]}'
)
GERMAN = "# Gezeiten\n\nStarte `tide --now`, {name}."
SCRIPTS = {
    "ask": (["At dusk."], "At dusk.\n"),
    "chat": (["Noted.", "At noon."], "At noon.\n"),
    "summarize": (["Bees dance."], "Bees dance."),
    "translate": ([GERMAN], f"{GERMAN}\n"),
    "rewrite": (["There is no boat."], "There is no boat.\n"),
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
    exec(compile(code, "<docs/chains.md>", "exec", dont_inherit=True), given)
    out = capsys.readouterr().out
    assert out == printed or re.fullmatch(printed, out)
    assert not server.script


def test_the_drawings_are_those_of_the_chains():
    drawn = runpy.run_path(str(DOCS.with_name("draw_chains.py")))
    assert drawn["PAGE"].read_text(encoding="utf-8") == drawn["draw"](), "run make graphs"
    assert set(drawn["chains"]()) == set(SCRIPTS)


def test_the_prompts_are_those_of_the_table():
    rows = []
    for found in pkgutil.iter_modules(chains.__path__):
        module = importlib.import_module(f"chains.{found.name}")
        rows += [
            f"| `{found.name}.{name}` | {module.PROMPT_VERSION} | `{prompt_fingerprint(value)}` |"
            for name, value in sorted(vars(module).items())
            if isinstance(value, ChatPromptTemplate) and not name.startswith("_")
        ]
    assert len(rows) > 10
    listed = re.findall(r"^\| `\w+\.\w+` \| .*$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == rows


def test_every_chain_is_in_the_table_with_its_section():
    text = DOCS.read_text(encoding="utf-8")
    tasks = [name[6:-6] for name in chains.__all__ if name.startswith("build_") and name.endswith("_chain")]
    assert sorted(re.findall(r"^\| \[`(\w+)`\]\(#\1\)", text, re.MULTILINE)) == sorted(tasks)
    assert all(f"\n## {task}\n" in text for task in tasks)
