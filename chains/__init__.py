"""LCEL chains composed from prompt templates; each factory takes the model it runs on.

A chain is an ordinary runnable: it streams, batches, and stands in a larger chain. An input with
nothing to read is refused before it costs a call. No chain picks, retries or pays for a model.
"""

from chains.ask import AskInput, build_ask_chain
from chains.fingerprint import prompt_fingerprint
from chains.summarize import SummarizeInput, build_summarize_chain
from chains.translate import TranslateInput, build_translate_chain

__all__ = [
    "AskInput",
    "SummarizeInput",
    "TranslateInput",
    "build_ask_chain",
    "build_summarize_chain",
    "build_translate_chain",
    "prompt_fingerprint",
]
