"""Errors of Unity Catalog and of the AI gateway carry the id of their request in the body, too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbllm.local.errors import Problem

Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class DetailedProblem(Problem):
    """A problem whose body says which request it belongs to."""

    request_id: str = ""

    def body(self) -> dict[str, object]:
        about = {"@type": "type.googleapis.com/google.rpc.RequestInfo", "request_id": self.request_id}
        return {**super().body(), "details": [{**about, "serving_data": ""}]}


def with_details(routes: Iterable[Route]) -> list[Route]:
    """The same routes, whose plain problems come with details."""
    return [Route(one.path, _detailed(one.endpoint), methods=list(one.methods or ())) for one in routes]


def _detailed(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Problem as problem:
            if type(problem) is not Problem:  # a provider's own error has a body of its own
                raise
            said = (problem.status, problem.error_code, problem.message, problem.headers)
            raise DetailedProblem(*said, request.scope["dbllm.request_id"]) from problem

    return answer
