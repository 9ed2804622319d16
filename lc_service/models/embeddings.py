"""`ReliableOpenAIEmbeddings`: LangChain's OpenAIEmbeddings with the retry inside, and without a download.

Everything OpenAIEmbeddings does stays. What is added is in `reliable_embeddings`.
"""

from __future__ import annotations

from langchain_openai import OpenAIEmbeddings

from lc_service.models.reliable_embeddings import ReliableEmbeddings


class ReliableOpenAIEmbeddings(ReliableEmbeddings, OpenAIEmbeddings):
    """OpenAIEmbeddings that retries each request by itself and counts it.

    Takes all of OpenAIEmbeddings' arguments. What differs:

    - `retry` decides about retries; the SDK's own are off. `max_retries=N` is short for a default policy with
      N retries, `retry_min_seconds` and `retry_max_seconds` are not used.
    - A vector goes to the text that its `index` names; an answer with too few or too many is retried.
    - Each request is a run for LangChain's callbacks: those of the chain step it happens in, `callbacks`, and
      trackers. Its texts are not shown to them.
    - Texts are sent as text, so no tokenizer file is downloaded. A text above twice `embedding_ctx_length`
      bytes is split there, and the vectors of its parts are averaged by their length.
    - `aembed_documents` has up to `max_concurrent_chunks` requests under way. When one fails for good, no
      more are begun, those under way are finished (they may be paid for, and are counted), and the first
      error is raised. Cancelling it cancels them all.
    - Without a `timeout`, the SDK's default holds (600 s for an answer, 5 s to connect).

    Safe to share between threads, tasks and event loops; can be pickled.

    Args:
        retry: When and how often to try again.
        callbacks: LangChain callback handlers, or a manager, for every request of this object.
        max_concurrent_chunks: How many requests of one `aembed_documents` may be under way.
        budget: A `Budget`, or several, that every attempt must fit into before it is sent.
        ledger: A `UsageLedger` that keeps a row for every attempt.
        telemetry: A `Telemetry` that tells OpenTelemetry of every request.
        rate_limits: `"auto"` learns the server's limits and keeps to them; `RateLimits` caps what is learned,
            or shares it between processes; None sends at once.
        circuit_breaker: When to leave a dead endpoint alone; None never does.

    Raises:
        CircuitOpenError: The endpoint is taken for dead. Nothing has been sent.
        RequestExceedsLimitError: A request can never fit the limit of tokens a minute. It has not been sent.
        BudgetExceeded: A request does not fit into `budget`. It has not been sent.
        MalformedResponseError: A 200 that is no API answer, or has not one vector for each text.
        openai.OpenAIError: Everything else, as the SDK raises it.
    """
