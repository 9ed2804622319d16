"""LCEL chains composed from prompt templates; each factory takes the model it runs on.

A chain is an ordinary runnable: it streams, batches, and stands in a larger chain. An input with
nothing to read is refused before it costs a call. No chain picks, retries or pays for a model.
"""

from chains.answer import AnswerError
from chains.answer_with_sources import (
    AnswerWithSourcesInput,
    Citation,
    SourcedAnswer,
    build_answer_with_sources_chain,
)
from chains.ask import AskInput, build_ask_chain
from chains.chat import ChatInput, InputTooLongError, build_chat_chain
from chains.classify import (
    ClassifyExample,
    ClassifyInput,
    Label,
    build_classify_chain,
    read_examples,
)
from chains.critique_and_revise import (
    Critique,
    CritiqueAndReviseInput,
    build_critique_and_revise_chain,
)
from chains.extract import ExtractInput, build_extract_chain
from chains.fingerprint import prompt_fingerprint
from chains.form import InvalidAnswerError
from chains.passages import PassageRetriever, abuild_index, build_index, load_text_files, split_documents
from chains.rewrite import RewriteInput, build_rewrite_chain
from chains.route import Route, RouteInput, build_route_chain
from chains.summarize import SummarizeInput, build_summarize_chain
from chains.translate import TranslateInput, build_translate_chain
from chains.translation import LostTextError

__all__ = [
    "AnswerError",
    "AnswerWithSourcesInput",
    "AskInput",
    "ChatInput",
    "Citation",
    "ClassifyExample",
    "ClassifyInput",
    "Critique",
    "CritiqueAndReviseInput",
    "ExtractInput",
    "InputTooLongError",
    "InvalidAnswerError",
    "Label",
    "LostTextError",
    "PassageRetriever",
    "RewriteInput",
    "Route",
    "RouteInput",
    "SourcedAnswer",
    "SummarizeInput",
    "TranslateInput",
    "abuild_index",
    "build_answer_with_sources_chain",
    "build_ask_chain",
    "build_chat_chain",
    "build_classify_chain",
    "build_critique_and_revise_chain",
    "build_extract_chain",
    "build_index",
    "build_rewrite_chain",
    "build_route_chain",
    "build_summarize_chain",
    "build_translate_chain",
    "load_text_files",
    "prompt_fingerprint",
    "read_examples",
    "split_documents",
]
