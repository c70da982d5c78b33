"""An agent as an app of its own origin, on the two wires that Databricks Apps speak.

    POST /api/invocations   GET /api/invocations/{id}   GET /api/invocations/{id}/events?after=N
    POST /responses   POST /invocations   GET /responses/{id}   POST /responses/{id}/cancel

The first (databricks-agentkit: DurableAgentServer) takes an id that the client makes, so that a request may be
repeated: the same id is the same run. The second (databricks-ai-bridge: LongRunningAgentServer) is the Responses wire,
with `background` and streams that can be continued. Behind both is the chat model; a run's output is a response, and
its events are those of a streamed response.
"""

from __future__ import annotations

import functools
import json
import time
import uuid
from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from dbllm.local.apps.runs import Run, Runs, Work
from dbllm.local.apps.wire import RunStream, app_problem, read_model, read_parameter
from dbllm.local.errors import Problem
from dbllm.local.http.asgi import Emit, read_body, until_gone
from dbllm.local.invocation.agent import AgentRequest, AgentTask, read_response
from dbllm.local.invocation.faults import Faults
from dbllm.local.invocation.limits import FOUNDATION_BODY
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.json_values import Json

INVOCATIONS = "/api/invocations"
OLDER = "/responses"
STATUSES = {"queued": "in_progress", "active": "in_progress"}
"""A run's status on the older wire, where it has another word."""


class InvocationBody(BaseModel):
    """A request of the first wire."""

    model_config = ConfigDict(extra="forbid")

    id: uuid.UUID
    session_id: str | None = Field(default=None, min_length=1)
    input: JsonValue = Field(default_factory=list)
    background: bool = False
    stream: bool = False


class AgentApp:
    """The agent's app.

    Args:
        name: the app's name.
        models: who answers.
        faults: what is wrong with `apps/{name}`.
    """

    def __init__(self, name: str, models: LocalModels, faults: Faults) -> None:
        self.name = name
        self._models = models
        self._faults = faults
        self._runs = Runs()

    def app(self) -> ASGIApp:
        """The app; the credential has been checked in front of it."""
        routes = (
            ("POST", INVOCATIONS, self.invoke),
            ("GET", f"{INVOCATIONS}/{{id}}", self.invocation),
            ("GET", f"{INVOCATIONS}/{{id}}/events", self.events),
            ("POST", OLDER, self.respond),
            ("POST", "/invocations", self.respond),
            ("GET", f"{OLDER}/{{id}}", self.response),
            ("POST", f"{OLDER}/{{id}}/cancel", self.cancel),
        )
        made = [Route(path, self._with_faults(handler), methods=[method]) for method, path, handler in routes]
        return Router([*made, Route("/{rest:path}", _not_found, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])

    def close(self) -> None:
        """End all runs."""
        self._runs.close()

    def _with_faults(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await self._faults.around(f"apps/{self.name}", request, functools.partial(handler, request))

        return answer

    # -- the wire of invocations

    async def invoke(self, request: Request) -> Response:
        """Start a run, or find the one that has this id, and answer as it is wanted."""
        body = read_model(InvocationBody, await read_body(request, FOUNDATION_BODY))
        asked = (body.input, body.session_id)
        run = self._runs.get(str(body.id))
        if run is None:
            run = self._runs.start(str(body.id), asked, self._work(str(body.id), body.input))
        elif run.request != asked:
            raise app_problem(409, "id was already used for another request")
        if body.background:
            return JSONResponse(_accepted(run, stream=body.stream), 202)
        if body.stream:
            return RunStream(run, 0, _invocation_frame)
        await until_gone(request.receive, run.wait())
        if run.status != "completed":
            raise app_problem(500, _failure(run))
        return JSONResponse(_state(run))

    async def invocation(self, request: Request) -> Response:
        """How far a run is, and what came of it."""
        return JSONResponse(_state(self._run_of(request)))

    async def events(self, request: Request) -> Response:
        """The events of a run behind the cursor `after`, as they come."""
        run = self._run_of(request)
        after = read_parameter(int, request.query_params.get("after", 0), "query", "after")
        return RunStream(run, max(0, after), _invocation_frame)

    def _run_of(self, request: Request) -> Run:
        identity = read_parameter(uuid.UUID, request.path_params["id"], "path", "invocation_id")
        run = self._runs.get(str(identity))
        if run is None:
            raise app_problem(404, "invocation not found")
        return run

    def _work(self, identity: str, value: JsonValue) -> Work:
        async def work(emit: Emit) -> Json:
            messages = value["messages"] if isinstance(value, dict) and "messages" in value else value
            body = messages if isinstance(messages, dict) and "input" in messages else {"input": messages}
            return await self._answer(f"resp_{uuid.UUID(identity).hex}", read_response(body), emit)

        return work

    async def _answer(self, response_id: str, wanted: AgentRequest, emit: Emit) -> Json:
        task = AgentTask(response_id)
        return (await task.stream(self._models, self._models.engine.name, wanted, emit)).whole()

    # -- the older wire

    async def respond(self, request: Request) -> Response:
        """A response: whole, streamed, or made in the background."""
        raw = await read_body(request, FOUNDATION_BODY)
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise app_problem(400, f"Invalid JSON in request body: {error}") from error
        try:
            wanted = read_response(body)
        except Problem as problem:
            reason = problem.message.removeprefix("Bad request: ")
            raise app_problem(400, f"Invalid parameters for ResponsesAgent: {reason}") from problem
        identity, background = f"resp_{uuid.uuid4().hex}", bool(body.get("background"))
        run = self._runs.start(identity, None, functools.partial(self._answer, identity, wanted))
        if wanted.stream:
            frame = functools.partial(_response_frame, run)
            return RunStream(run, 0, frame, _last_frame, only_reader=not background)
        if background:
            empty: Json = {"object": "response", "created_at": int(time.time()), "error": None, "output": []}
            return JSONResponse(
                {"id": run.id, **empty, "status": "in_progress", "incomplete_details": None, "metadata": {}}
            )
        try:
            await until_gone(request.receive, run.wait())
        finally:
            run.cancel()
        if run.status != "completed":
            raise app_problem(500, run.error)
        return JSONResponse(run.output)

    async def response(self, request: Request) -> Response:
        """A response that was started before: how far it is, or its stream behind the cursor `starting_after`."""
        run = self._response_of(request)
        query = request.query_params
        stream = read_parameter(bool, query.get("stream", False), "query", "stream")
        after = read_parameter(int, query.get("starting_after", 0), "query", "starting_after")
        if after < 0:
            detail = "Input should be greater than or equal to 0"
            raise app_problem(422, [{"type": "greater_than_equal", "loc": ["query", "starting_after"], "msg": detail}])
        if after and not stream:
            raise app_problem(400, "starting_after is only supported when stream=true.")
        if not stream:
            return JSONResponse(_older_state(run))
        # Numbers begin with 0 on this wire; the cursor 0 means from the start, another one is the last that was read.
        return RunStream(run, after + 1 if after else 0, functools.partial(_response_frame, run), _last_frame)

    async def cancel(self, request: Request) -> Response:
        """End a response that is being made; one that has ended stays what it is."""
        run = self._response_of(request)
        run.cancel()
        return JSONResponse(_older_state(run))

    def _response_of(self, request: Request) -> Run:
        run = self._runs.get(request.path_params["id"])
        if run is None:
            raise app_problem(404, "Response not found")
        return run


def _accepted(run: Run, *, stream: bool) -> Json:
    accepted: Json = {"id": run.id, "status": run.status, "status_url": f"{INVOCATIONS}/{run.id}"}
    return {**accepted, "events_url": f"{INVOCATIONS}/{run.id}/events"} if stream else accepted


def _state(run: Run) -> Json:
    state: Json = {"id": run.id, "status": "failed" if run.status == "cancelled" else run.status}
    if run.status == "completed":
        state["output"] = run.output
    elif run.ended:
        state["error"] = _failure(run)
    return state


def _failure(run: Run) -> str:
    return f"agent invocation failed: {run.error}" if run.error else "agent invocation failed"


def _invocation_frame(number: int, event: Json) -> str:
    return f"id: {number}\nevent: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"


def _older_state(run: Run) -> Json:
    status = STATUSES.get(run.status, run.status)
    state: Json = {"id": run.id, "object": "response", "status": status}
    if run.status == "completed":
        return run.output
    if run.status == "failed":
        state["error"] = {"message": run.error, "type": "server_error", "code": "task_failed"}
    return state


def _response_frame(run: Run, number: int, event: Json) -> str:
    tagged = {**event, "sequence_number": number - 1, "response_id": run.id}
    return f"data: {json.dumps(tagged, ensure_ascii=False)}\n\n"


def _last_frame(run: Run) -> str:
    if run.status == "completed":
        return "data: [DONE]\n\n"
    if run.status == "cancelled":
        ended = {"type": "response.cancelled", "response": _older_state(run), "response_id": run.id}
        return f"data: {json.dumps(ended)}\n\ndata: [DONE]\n\n"
    error = {"type": "error", "error": _older_state(run)["error"], "response_id": run.id}
    return f"data: {json.dumps(error)}\n\n"


async def _not_found(_request: Request) -> Response:
    raise app_problem(404, "Not Found")
