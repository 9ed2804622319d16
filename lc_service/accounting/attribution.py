"""Whose tokens these are: the tags and metadata of a run that the user set, without LangChain's own.

Nothing long and nothing that looks like a secret is kept: records end up in files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MAX_CHARACTERS = 128
"""Longer tags and metadata values are no names of anything, but may be prompts: they are not kept."""

_LANGCHAINS_TAG = re.compile(r"(seq:step:|map:key:|condition:|branch:|langsmith:|graph:step:)")
_LANGCHAINS_KEY = re.compile(r"(ls_|langgraph_|langchain_|lc_|__|checkpoint_|revision_id|run_|versions$)")
_SECRET = re.compile(r"key|secret|passw|token|credential|authorization", re.IGNORECASE)


def own_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    """Return the user's tags in their order, each once."""
    if not tags:
        return ()
    return tuple(
        dict.fromkeys(
            tag
            for tag in tags
            if isinstance(tag, str) and len(tag) <= MAX_CHARACTERS and not _LANGCHAINS_TAG.match(tag)
        )
    )


def own_metadata(metadata: Mapping[str, Any] | None) -> dict[str, str | int | float | bool]:
    """Return the user's metadata: short scalar values whose key names no secret."""
    if not metadata:
        return {}
    return {
        key: value
        for key, value in metadata.items()
        if isinstance(value, (str, int, float, bool))
        and not (isinstance(value, str) and len(value) > MAX_CHARACTERS)
        and isinstance(key, str)
        and not _LANGCHAINS_KEY.match(key)
        and not _SECRET.search(key)
    }
