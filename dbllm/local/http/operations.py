"""The workspace's own APIs as a table: each operation once, as a route and in the OpenAPI document.

An operation is a plain function from an `ApiCall` to the JSON of its answer. All of them run on one thread, one after
the other, so they need no locks and a change is on the disk before its answer leaves.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dbllm.local.access.permissions import Caller
from dbllm.local.errors import malformed
from dbllm.local.http.asgi import MEGABYTE, decode_json, read_body
from dbllm.local.json_values import Json

MAX_OPERATION_BODY = MEGABYTE
"""Bytes of a request's body."""


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One call of an operation: who, and what was said in the path, the query and the body."""

    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        method, path: as the route.
        run: makes the answer: JSON, or text where `text` is set.
        summary: for the document.
        body: JSON schema of the request's body; None without a body.
        query: names of the query's parameters that are required.
        options: names of those that are not.
        text: the answer is plain text.
    """

    method: str
    path: str
    run: Callable[[ApiCall], object]
    summary: str
    body: Json | None = None
    query: tuple[str, ...] = ()
    text: bool = False
    options: tuple[str, ...] = ()


def routes(operations: Iterable[Operation], thread: Executor) -> list[Route]:
    """The operations as routes; `thread` has one worker."""
    return [Route(one.path, _endpoint(one, thread), methods=[one.method]) for one in operations]


def _endpoint(operation: Operation, thread: Executor) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        body = read_json_object(await read_body(request, MAX_OPERATION_BODY)) if operation.body is not None else {}
        call = ApiCall(request.scope["dbllm.caller"], request.path_params, request.query_params, body)
        result = await asyncio.get_running_loop().run_in_executor(thread, operation.run, call)
        return PlainTextResponse(str(result)) if operation.text else JSONResponse(result)

    return answer


def read_json_object(body: bytes) -> Json:
    """The JSON object of a request.

    Raises:
        Problem: 400, it is something else.
    """
    decoded = decode_json(body or b"{}")
    if not isinstance(decoded, dict):
        raise malformed("The body must be a JSON object")
    return decoded


def document(operations: Iterable[Operation], title: str) -> Json:
    """The OpenAPI 3.1 document of operations."""
    paths: dict[str, Json] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation_document(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
        "paths": paths,
    }


def _operation_document(operation: Operation) -> Json:
    parameters: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"minLength": 1, **text_schema(EXAMPLES.get(name, str(name)))},
        }
        for name in re.findall(r"{(\w+)(?::path)?}", operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in operation.query, "schema": text_schema(EXAMPLES[name])}
        for name in (*operation.query, *operation.options)
    ]
    media = "text/plain" if operation.text else "application/json"
    described: Json = {
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Success.", "content": {media: {}}},
            "default": {
                "description": "A Databricks error.",
                "content": {"application/json": {"schema": {"type": "object", "required": ["message"]}}},
            },
        },
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    return described


def object_schema(*required: str, **properties: object) -> Json:
    """JSON schema of an object with these properties."""
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def text_schema(example: str) -> Json:
    """JSON schema of a text."""
    return {"type": "string", "examples": [example]}


EXAMPLES = {
    "name": "mine",
    "served": "dolly-1",
    "scope": "s",
    "key": "k",
    "principal": "users",
    "endpoint_id": "0" * 32,
    "full_name": "main.default.mine",
    "securable_type": "model_service",
    "app_name": "smollm2-agent",
    "parent": "schemas/main.default",
    "model_service_id": "mine",
    "model_provider_service_id": "mine",
    "page_size": "1",
    "page_token": "",
    "view": "FULL",
    "update_mask": "comment",
    "etag": "",
}
"""Values of parameters that reach something, once endpoint, scope, secret and services of these names were made."""

TEXT: Json = {"type": "string"}
TEXTS: Json = {"type": "array", "items": TEXT}
NUMBER: Json = {"type": "integer", "minimum": 0}
OBJECT: Json = {"type": "object"}
OBJECTS: Json = {"type": "array", "items": OBJECT}
