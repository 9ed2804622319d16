"""Reliable, accounted-for access to OpenAI models for LangChain programs.

Every public name is importable from here and loaded on first use: `import lc_service` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME: dict[str, str] = {}

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    try:
        module = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
