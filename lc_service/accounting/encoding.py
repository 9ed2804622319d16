"""Find tiktoken's encoding for a model where its files are on this machine already.

Nothing is downloaded and nothing raises: whatever goes wrong means that there is no encoding.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiktoken import Encoding


def load_encoding(model: str) -> Encoding | None:
    """Load tiktoken's encoding if nothing has to be downloaded for it; any failure means there is none."""
    try:
        directory = _cache_directory()
        if directory is None or not any(directory.iterdir()):
            return None
        import tiktoken  # noqa: PLC0415  only where a file may be there
        from tiktoken import registry  # noqa: PLC0415

        name = tiktoken.encoding_name_for_model(model)
        tiktoken.list_encoding_names()  # finds the constructors
        constructors: Mapping[str, Callable[[], dict[str, Any]]] = registry.ENCODING_CONSTRUCTORS or {}
        urls, hashes = _sources(name, constructors)
        if not urls or len(urls) != len(hashes):
            return None
        for url in urls:
            cached = directory / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
            # tiktoken removes a file of another hash and fetches it again
            if hashlib.sha256(cached.read_bytes()).hexdigest() not in hashes:
                return None
        return tiktoken.get_encoding(name)
    except Exception:  # noqa: BLE001  never a failure: there is the estimate
        return None


def _cache_directory() -> Path | None:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if (value := os.environ.get(variable)) is not None:
            return Path(value) if value else None  # empty switches tiktoken's cache off
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def _sources(
    name: str, constructors: Mapping[str, Callable[[], dict[str, Any]]]
) -> tuple[set[str], set[str]]:
    """Read which URLs an encoding is loaded from, and their SHA-256, off its constructor's constants.

    Nothing is called: calling it would download. One that builds on another names it.
    """
    code: CodeType = constructors[name].__code__
    urls = {text for text in _texts(code.co_consts) if "://" in text}
    hashes = {text for text in _texts(code.co_consts) if re.fullmatch("[0-9a-f]{64}", text)}
    for other in set(code.co_names) & set(constructors) - {name}:
        more_urls, more_hashes = _sources(other, constructors)
        urls, hashes = urls | more_urls, hashes | more_hashes
    return urls, hashes


def _texts(constants: Sequence[object]) -> Iterator[str]:
    return (constant for constant in constants if isinstance(constant, str))
