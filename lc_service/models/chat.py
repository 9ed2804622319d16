"""`ReliableChatOpenAI`: LangChain's ChatOpenAI with the retry inside, and every attempt accounted for.

Everything ChatOpenAI does stays. What is added is in `reliable_chat` and `configured_chat`.
"""

from __future__ import annotations

from langchain_openai import ChatOpenAI

from lc_service.models.reliable_chat import ReliableChat


class ReliableChatOpenAI(ReliableChat, ChatOpenAI):
    """ChatOpenAI that retries the right way and never passes a partial answer off as whole.

    Takes all of ChatOpenAI's arguments. What differs:

    - `retry` decides about retries; the SDK's own are off. `max_retries=N` is short for a default policy with
      N retries. Invoke and its batches retry until an answer is whole; a stream, and invoke
      with `streaming=True`, until its first content.
    - Without a `timeout`, the SDK's default holds (600 s for an answer, 5 s to connect); ChatOpenAI waits
      for ever. `timeout=None`, said explicitly, still means no limit.
    - `stream_usage` is on whatever the base URL; `stream_usage=False` is for servers that refuse it.
    - Asynchronous connections belong to the event loop that opened them and are closed with it.
    - `get_num_tokens` and its kin count without a download, tools included, for any model.
    - It can be pickled; the copy opens its own connections.

    Safe to share between threads, tasks and event loops.

    Args:
        retry: When and how often to try again.
        budget: A `Budget`, or several, that every attempt must fit into before it is sent.
        ledger: A `UsageLedger` that keeps a row for every attempt.
        telemetry: A `Telemetry` that tells OpenTelemetry of every call.
        rate_limits: `"auto"` learns the server's limits from its answers and keeps to them, together with
            all models of this process that use the same endpoint, key and model name; `RateLimits` caps what
            is learned, or shares it between processes; None sends at once.
        circuit_breaker: When to leave a dead endpoint alone; None never does.
        hedge: When to send a request of `invoke` or `ainvoke` again because the first is slow; None never
            does.

    Raises:
        CircuitOpenError: The endpoint is taken for dead. Nothing has been sent.
        RequestExceedsLimitError: The call can never fit the limit of tokens a minute. Nothing has been sent.
        BudgetExceeded: The call does not fit into `budget`. Nothing has been sent.
        TruncatedResponseError: The end of an answer never came; what came is in `.partial`.
        MalformedResponseError: A 200 that is no API answer.
        openai.OpenAIError: Everything else, as ChatOpenAI raises it.

    Example:
        >>> from langchain_core.prompts import ChatPromptTemplate
        >>> model = ReliableChatOpenAI(model="gpt-5.4-mini", api_key="sk-...")
        >>> chain = ChatPromptTemplate.from_template("Say hello to {name}.") | model
    """
