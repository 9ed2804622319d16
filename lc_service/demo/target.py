"""Find a chain by its name, `module:factory`, as uvicorn finds an application.

The factory takes a chat model and returns a runnable. Nothing is called here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from langchain_core.runnables import Runnable

ChainFactory = Callable[[Any], Runnable[Any, Any]]


class ChainTargetError(ValueError):
    """Raise when a `module:name` target leads to no chain factory or class; the message says why."""


def load_factory(target: str) -> ChainFactory:
    """Return the factory that `target` names; modules of the working directory are found too.

    What it returns raises `ChainTargetError` as well, where the function makes no chain of the model.

    Args:
        target: `package.module:function`, for instance `chains.summarize:build_summarize_chain`.

    Raises:
        ChainTargetError: There is no such module or function, or the module cannot be imported.
    """
    found = load_object(target, "function", example="chains.summarize:build_summarize_chain")
    return lambda model: _make(found, target, model)


def load_object(target: str, kind: Literal["function", "class"], *, example: str) -> Any:
    """Return the function or class that `target` names; modules of the working directory are found too.

    Args:
        target: `package.module:name`.
        kind: What is looked for.
        example: What a target looks like, for the error.

    Raises:
        ChainTargetError: There is no such module or name, or the module cannot be imported.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise ChainTargetError(f"{target!r} names nothing: write module:{kind}, such as {example}.")
    found: Any = _import(module_name)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (callable(found) if kind == "function" else isinstance(found, type)):
        raise ChainTargetError(f"The module {module_name} has no {kind} {name}.")
    return found


def _make(factory: Callable[[Any], Any], target: str, model: Any) -> Runnable[Any, Any]:
    try:
        chain = factory(model)
    except Exception as error:
        raise ChainTargetError(f"{target} makes no chain of a model ({type(error).__name__}).") from error
    if not isinstance(chain, Runnable):
        raise ChainTargetError(f"{target} makes no chain but a value of type {type(chain).__name__}.")
    return chain


def _import(name: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:  # an installed script starts without it
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ChainTargetError(f"No module named {error.name!r} for {name}.") from error
    except Exception as error:
        raise ChainTargetError(f"The module {name} fails on import ({type(error).__name__}).") from error
