"""Draw the chains into docs/chain-graphs.md, each as what `get_graph()` says of it.

The page is the same for the same chains: it holds no times, versions or addresses. No model is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel

from chains import (
    Route,
    build_answer_with_sources_chain,
    build_ask_chain,
    build_chat_chain,
    build_classify_chain,
    build_critique_and_revise_chain,
    build_extract_chain,
    build_rewrite_chain,
    build_route_chain,
    build_summarize_chain,
    build_translate_chain,
)

PAGE = Path(__file__).with_name("chain-graphs.md")
_HEAD = """\
# The chains, drawn

What `chain.get_graph()` says of each; `make graphs` draws them anew. A chain that makes several calls shows
what it may call: which of them it does call, and how often, is decided by the answers. What each is for:
[chains.md](chains.md).
"""


class Boat(BaseModel):
    """A schema to extract."""

    name: str


def chains() -> dict[str, Runnable[Any, Any]]:
    """Build one chain of each kind, by its task."""
    model = FakeListChatModel(name="model", responses=["unused"])
    retriever: Runnable[str, Any] = RunnableLambda(lambda _: [], name="retriever")
    ask = build_ask_chain(model)
    return {
        "ask": ask,
        "chat": build_chat_chain(model),
        "summarize": build_summarize_chain(model, max_input_tokens=100_000),
        "translate": build_translate_chain(model),
        "rewrite": build_rewrite_chain(model),
        "extract": build_extract_chain(model, Boat),
        "classify": build_classify_chain(model, ["praise", "complaint"]),
        "answer_with_sources": build_answer_with_sources_chain(model, retriever),
        "route": build_route_chain(model, {"question": Route("A question.", ask)}),
        "critique_and_revise": build_critique_and_revise_chain(model),
    }


def draw() -> str:
    """Return the page, in Markdown."""
    parts = [_HEAD]
    for task, chain in chains().items():
        drawing = chain.get_graph().draw_mermaid(with_styles=False).strip().replace("\t", "    ")
        parts.append(f"## {task}\n\n```mermaid\n{drawing}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(draw(), encoding="utf-8")
