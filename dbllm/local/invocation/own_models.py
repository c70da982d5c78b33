"""Calling a serving endpoint: from the body of an invocation to its answer."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dbllm.local.errors import Problem, bad_request
from dbllm.local.http.asgi import MEGABYTE, EventStream, decode_json, read_body, until_gone
from dbllm.local.invocation import agent, requests, responses, scoring
from dbllm.local.management.catalog import Endpoint
from dbllm.local.model.embeddings import Vectors
from dbllm.local.model.llama import Engine, EngineRefused, EngineStopped, Job
from dbllm.local.model.tool_choice import ToolChooser

FOUNDATION_LIMIT = 4 * MEGABYTE
CUSTOM_LIMIT = 16 * MEGABYTE
"""Request bytes an endpoint takes (Databricks docs: model serving limits)."""

Emit = Callable[[object], Awaitable[None]]


class LocalModels:
    """The models that answer for all endpoints: one for text, one for embeddings."""

    def __init__(self, engine: Engine, vectors: Vectors) -> None:
        self.engine = engine
        self.vectors = vectors
        self.chooser = ToolChooser(engine)


async def invoke(request: Request, endpoint: Endpoint, models: LocalModels, body: bytes) -> Response:
    """Answer one invocation of `endpoint`, whose body has been read.

    Raises:
        Problem: the request does not fit the endpoint, or the model cannot take it.
        ClientGoneError: the client went away; the model was stopped.
    """
    headers = {"served-model-name": endpoint.served}
    if endpoint.task is None:
        check_content_type(request.headers.get("content-type", ""))
        return await _score(request, scoring.parse(decode_json(body)), models, headers)
    decoded = decode_json(body)
    if endpoint.task == "llm/v1/embeddings":
        return await _embed(request, requests.read_embeddings(decoded), endpoint, models, headers)
    if endpoint.task == "agent/v1/responses":
        return await _respond(
            request,
            agent.read_response(decoded, text_allowed="name" not in request.path_params),
            endpoint,
            models,
            headers,
        )
    chat = endpoint.task == "llm/v1/chat"
    wanted = requests.read_chat(decoded) if chat else requests.read_completions(decoded)
    head = responses.Head(
        id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=endpoint.model,
        task="llm/v1/chat" if chat else "llm/v1/completions",
        alternatives=wanted.alternatives,
    )
    if wanted.stream:
        return EventStream(lambda emit: _stream_text(models, head, wanted, emit), headers)
    return JSONResponse(await until_gone(request.receive, _whole_text(models, head, wanted)), headers=headers)


async def read_limited(request: Request, endpoint: Endpoint) -> bytes:
    """The body of an invocation, up to the limit of its endpoint."""
    return await read_body(request, CUSTOM_LIMIT if endpoint.task is None else FOUNDATION_LIMIT)


async def _tally(engine: Engine, jobs: Sequence[Job], choices_per_prompt: int = 1) -> responses.Accumulator:
    tally = responses.Accumulator(len(jobs), choices_per_prompt)
    try:
        async with engine.generate(jobs) as pieces:
            async for piece in pieces:
                tally.add(piece)
    except (EngineRefused, EngineStopped) as error:
        raise _problem(error) from error
    return tally


async def _whole_text(models: LocalModels, head: responses.Head, wanted: requests.TextRequest) -> responses.Json:
    head, wanted = await _decided(models, head, wanted)
    return responses.whole(head, await _tally(models.engine, wanted.jobs, wanted.choices_per_prompt))


async def _decided(
    models: LocalModels, head: responses.Head, wanted: requests.TextRequest
) -> tuple[responses.Head, requests.TextRequest]:
    """The request once it is settled whether a tool is called, and which."""
    try:
        for grammar in {str(job.request["grammar"]) for job in wanted.jobs if "grammar" in job.request}:
            await models.chooser.check(grammar)
        tool = await models.chooser.choose(wanted.offer, wanted.question) if wanted.offer else None
        if tool is None:
            return head, wanted
        await models.chooser.check(tool.grammar)
    except (EngineRefused, EngineStopped) as error:
        raise _problem(error) from error
    return replace(head, tool=tool.name), wanted.calling(tool)


async def _stream_text(models: LocalModels, head: responses.Head, wanted: requests.TextRequest, emit: Emit) -> None:
    head, wanted = await _decided(models, head, wanted)
    tally = responses.Accumulator(len(wanted.jobs), wanted.choices_per_prompt)
    try:
        async with models.engine.generate(wanted.jobs) as pieces:
            async for piece in pieces:
                first, offset = not tally.texts[piece.job], len(tally.text(piece.job)) if piece.logprobs else 0
                tally.add(piece)
                usage = None if wanted.usage_apart else tally.usage()
                await emit(responses.chunk(head, piece, usage, first=first, offset=offset))
    except (EngineRefused, EngineStopped) as error:
        raise _problem(error) from error
    if wanted.usage_apart:
        await emit(responses.last_chunk(head, tally.usage()))


async def _respond(
    request: Request, ask: agent.AgentRequest, endpoint: Endpoint, models: LocalModels, headers: dict[str, str]
) -> Response:
    head = responses.Head(f"resp_{uuid.uuid4().hex}", int(time.time()), endpoint.model, "llm/v1/chat")
    if ask.wanted.stream:
        return EventStream(lambda emit: _stream_response(models, head, ask, emit), headers)
    telling = await until_gone(request.receive, _stream_response(models, head, ask, _drop))
    return JSONResponse(telling.whole(), headers=headers)


async def _drop(_frame: object) -> None:
    """An `emit` for whoever wants the whole answer only."""


async def _stream_response(
    models: LocalModels, head: responses.Head, ask: agent.AgentRequest, emit: Emit
) -> agent.ResponseEvents:
    head, wanted = await _decided(models, head, ask.wanted)
    telling = agent.ResponseEvents(head, ask)
    try:
        async with models.engine.generate(wanted.jobs) as pieces:
            begun = False
            async for piece in pieces:
                for event in ([] if begun else telling.begin()) + telling.add(piece):
                    await emit(event)
                begun = True
    except (EngineRefused, EngineStopped) as error:
        raise _problem(error) from error
    for event in telling.end():
        await emit(event)
    return telling


async def _stream_row(engine: Engine, job: Job, emit: Emit) -> None:
    try:
        async with engine.generate([job]) as pieces:
            async for piece in pieces:
                if piece.text:
                    await emit(piece.text)
    except (EngineRefused, EngineStopped) as error:
        raise _problem(error) from error


async def _embed(
    request: Request,
    wanted: requests.EmbeddingsRequest,
    endpoint: Endpoint,
    models: LocalModels,
    headers: dict[str, str],
) -> Response:
    work = asyncio.to_thread(models.vectors.embed, wanted.texts)
    vectors, tokens = await until_gone(request.receive, work)
    answer = responses.embeddings(endpoint.model, vectors, tokens, as_base64=wanted.base64)
    return JSONResponse(answer, headers=headers)


async def _score(request: Request, wanted: scoring.Scoring, models: LocalModels, headers: dict[str, str]) -> Response:
    jobs = [row_job(row) for row in wanted.rows]
    if wanted.stream:
        if len(jobs) != 1:
            raise bad_request(f"a stream answers one row, got {len(jobs)}")
        return EventStream(lambda emit: _stream_row(models.engine, jobs[0], emit), headers)
    tally = await until_gone(request.receive, _tally(models.engine, jobs))
    predictions = [tally.text(number) for number in range(len(jobs))]
    return JSONResponse({"predictions": predictions} if wanted.wrapped else predictions, headers=headers)


def row_job(row: scoring.Row) -> Job:
    """What one row of a prompt/stop model asks of the engine.

    Raises:
        Problem: 400 with the reason.
    """
    ask = scoring.read_row(row, requests.SAMPLING)
    request = requests.read_sampling(ask.params)
    return requests.prompt_job(ask.prompt, {**request, **({"stop": list(ask.stop)} if ask.stop else {})})


def check_content_type(header: str) -> None:
    """A custom model takes JSON in UTF-8 (MLflow scoring server: 415 otherwise)."""
    kind, *options = (part.strip().lower() for part in header.split(";"))
    if kind != "application/json":
        raise Problem(
            415, "BAD_REQUEST", f"This predictor only supports the content type application/json. Got '{header}'."
        )
    for option in options:
        name, _, value = option.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise Problem(415, "BAD_REQUEST", f"The scoring server only supports UTF-8. Got charset '{value}'.")


def _problem(error: EngineRefused | EngineStopped) -> Problem:
    if isinstance(error, EngineStopped):
        return Problem(503, "TEMPORARILY_UNAVAILABLE", "The workspace is shutting down.")
    return bad_request(str(error))
