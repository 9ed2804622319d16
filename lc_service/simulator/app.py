"""The paths: which endpoint answers which, what is listed, and how a separate process asks.

Invariant: an unknown path or method is answered as OpenAI answers it, never with a server's page.
It routes; `engine` serves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace

import orjson
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from lc_service.simulator import chat, embeddings, reply, responses
from lc_service.simulator.azure import azure_endpoints
from lc_service.simulator.bill import Bill
from lc_service.simulator.endpoint import Endpoint
from lc_service.simulator.engine import Engine, answer_headers
from lc_service.simulator.errors import ApiError
from lc_service.simulator.exchange import JSON, Exchange
from lc_service.simulator.limits import ServerLimits
from lc_service.simulator.prompt import read_chat, read_responses

MODELS = (
    "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini",
    "gpt-5-nano", "o3", "o4-mini", "text-embedding-3-small", "text-embedding-3-large",
    "text-embedding-ada-002",
)  # fmt: skip
"""What `/v1/models` lists; any other name is served as well."""

ENDPOINTS = {
    "/v1/chat/completions": Endpoint(
        operation="chat",
        read=read_chat,
        answer=reply.compose,
        plain=chat.completion,
        events=chat.chunks,
        error_event=chat.error_event,
    ),
    "/v1/responses": Endpoint(
        operation="chat",
        read=read_responses,
        answer=reply.compose,
        plain=responses.response,
        events=responses.events,
        error_event=responses.error_event,
    ),
    "/v1/embeddings": Endpoint(
        operation="embeddings",
        read=embeddings.read_embeddings,
        answer=lambda request: request,
        plain=embeddings.embedding_list,
        has_context=False,
    ),
}
ENDPOINTS |= azure_endpoints(ENDPOINTS)

_Handler = Callable[[Exchange], Awaitable[None]]


class _Action:
    """An ASGI application of one method; Starlette's own request wrapper would cost more."""

    def __init__(self, engine: Engine, method: str, handler: _Handler) -> None:
        self._engine = engine
        self._method = method
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        if scope["method"] == self._method:
            await self._handler(exchange)
            return
        error = ApiError(405, f"Not allowed to {scope['method']} on {scope['path']}.")
        await self._engine.send_error(exchange, self._engine.open(exchange), error)


def build_app(engine: Engine) -> ASGIApp:
    """Return the ASGI application over `engine`."""

    def serve(endpoint: Endpoint) -> _Handler:
        return lambda exchange: engine.handle(endpoint, exchange)

    async def list_models(exchange: Exchange) -> None:
        await _send_models(engine, exchange)

    async def show_bill(exchange: Exchange) -> None:
        await exchange.send_whole(200, [JSON], bill_json(engine.bill))

    async def reset(exchange: Exchange) -> None:
        engine.reset()
        await exchange.send_whole(200, [JSON], b"{}")

    async def set_limits(exchange: Exchange) -> None:
        try:
            engine.set_limits(_read_limits(engine.limiter.limits, await exchange.read_body() or b"{}"))
        except (TypeError, ValueError) as error:
            await engine.send_error(exchange, engine.open(exchange), ApiError(400, str(error)))
            return
        await exchange.send_whole(200, [JSON], orjson.dumps(asdict(engine.limiter.limits)))

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        entry = engine.open(exchange)
        message = f"Invalid URL ({scope['method']} {scope['path']})"
        await engine.send_error(exchange, entry, ApiError(404, message))

    routes = [Route(path, _Action(engine, "POST", serve(endpoint))) for path, endpoint in ENDPOINTS.items()]
    routes += [
        Route("/v1/models", _Action(engine, "GET", list_models)),
        Route("/openai/v1/models", _Action(engine, "GET", list_models)),
        Route("/v1/models/{model:path}", _Action(engine, "GET", list_models)),
        Route("/__simulator/bill", _Action(engine, "GET", show_bill)),
        Route("/__simulator/reset", _Action(engine, "POST", reset)),
        Route("/__simulator/limits", _Action(engine, "POST", set_limits)),
    ]
    return Router(routes, default=not_found, redirect_slashes=False)


def bill_json(bill: Bill) -> bytes:
    """Return the bill as JSON: requests, interrupted_requests, total, lines."""
    lines = [
        {"model": model, "operation": operation, **asdict(line)}
        for (model, operation), line in sorted(bill.lines.items())
    ]
    return orjson.dumps(
        {
            "requests": bill.requests,
            "interrupted_requests": bill.interrupted_requests,
            "total": {**asdict(bill.total), "total_tokens": bill.total.total_tokens},
            "lines": lines,
        }
    )


def _read_limits(limits: ServerLimits, body: bytes) -> ServerLimits:
    changes = orjson.loads(body)
    if not isinstance(changes, dict):
        raise ValueError("The limits must be a JSON object: fields of ServerLimits, null for unlimited.")  # noqa: TRY004  it is the client's value that is wrong
    return replace(limits, **changes)


async def _send_models(engine: Engine, exchange: Exchange) -> None:
    entry = engine.open(exchange)
    try:
        engine.authorize(exchange, entry)
        body = _models(exchange.scope.get("path_params", {}).get("model"))
    except ApiError as error:
        await engine.send_error(exchange, entry, error)
        return
    entry.status = 200
    await exchange.send_whole(200, [JSON, *answer_headers(entry)], orjson.dumps(body))


def _models(wanted: str | None) -> dict[str, object]:
    cards: dict[str, dict[str, object]] = {
        name: {"id": name, "object": "model", "created": chat.CREATED, "owned_by": "simulator"}
        for name in MODELS
    }
    if wanted is None:
        return {"object": "list", "data": list(cards.values())}
    if wanted not in cards:
        message = f"The model '{wanted}' does not exist."
        raise ApiError(404, message, param="model", code="model_not_found")
    return cards[wanted]
