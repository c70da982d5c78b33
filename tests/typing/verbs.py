"""What the verbs give, as a type checker sees it; run by mypy and pyright, never executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from typing_extensions import TypedDict, assert_type

from dbllm import (
    Agent,
    AsyncAgent,
    AsyncClient,
    AsyncDriverApp,
    AsyncEndpoint,
    AsyncEndpoints,
    AsyncModelProviders,
    AsyncModelServices,
    AsyncRun,
    AsyncSecrets,
    AsyncStream,
    ChatCompletion,
    Client,
    DriverApp,
    Embeddings,
    Endpoint,
    Endpoints,
    Message,
    ModelProvider,
    ModelProviders,
    ModelService,
    ModelServices,
    OutputItem,
    Predictions,
    Raw,
    Response,
    ResponseEvent,
    Retry,
    Run,
    SecretMetadata,
    Secrets,
    SecretScope,
    ServingEndpoint,
    Timeout,
    Usage,
    audio,
    file,
    image,
)


def token() -> str:
    return "t"


async def slow_token() -> str:
    return "t"


def making() -> None:
    assert_type(Client(), Client)
    assert_type(Client("h", "t", profile="p", retry=Retry(attempts=1), timeout=5, headers={"a": "b"}), Client)
    assert_type(AsyncClient("h", token, timeout=Timeout(total=None), max_connections=5), AsyncClient)
    assert_type(AsyncClient("h", slow_token), AsyncClient)
    assert_type(Client("h", token).host, str)
    Client("h", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client(host="h", tokn="t")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Client("h", retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def asynchronous(client: AsyncClient) -> None:
    async with AsyncClient() as entered:
        assert_type(entered, AsyncClient)
    assert_type(client.with_options(timeout=5, retry=Retry()), AsyncClient)
    assert_type(await client.request("GET", "/api"), Any)
    assert_type(await client.aclose(), None)

    endpoint = client.endpoint("e", task="chat", params={"temperature": 0.1}, transform_output=str)
    assert_type(endpoint, AsyncEndpoint)
    assert_type(endpoint.name, str)
    assert_type(await endpoint.complete("hi", stop=["."], temperature=0.1), str)
    assert_type(await endpoint.chat("hi"), ChatCompletion)
    assert_type(
        await endpoint.chat([Message(role="user", content="hi"), {"role": "user", "content": "x"}]), ChatCompletion
    )
    assert_type(await endpoint.chat({"role": "user", "content": "x"}, n=2, timeout=1.5), ChatCompletion)
    assert_type(await endpoint.embed(["hi"], instruction="i"), Embeddings)
    assert_type(await endpoint.predict(dataframe_records=[{"prompt": "hi"}], params={"t": 1}), Predictions)
    await endpoint.complete(["hi"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await endpoint.complete("hi", stop=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await endpoint.chat(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    app = client.driver_app(7777, "c")
    assert_type(app, AsyncDriverApp)
    assert_type(await app.complete("hi", stop="."), str)


def plain(client: Client) -> None:
    with Client() as entered:
        assert_type(entered, Client)
    assert_type(client.with_options(timeout=5, retry=Retry()), Client)
    assert_type(client.request("GET", "/api"), Any)
    assert_type(client.close(), None)

    endpoint = client.endpoint("e", task="chat", params={"temperature": 0.1}, transform_output=str)
    assert_type(endpoint, Endpoint)
    assert_type(endpoint.name, str)
    assert_type(endpoint.complete("hi", stop=["."], temperature=0.1), str)
    assert_type(endpoint.chat("hi"), ChatCompletion)
    assert_type(endpoint.chat([Message(role="user", content="hi"), {"role": "user", "content": "x"}]), ChatCompletion)
    assert_type(endpoint.chat({"role": "user", "content": "x"}, n=2, timeout=1.5), ChatCompletion)
    assert_type(endpoint.embed(["hi"], instruction="i"), Embeddings)
    assert_type(endpoint.predict(dataframe_records=[{"prompt": "hi"}], params={"t": 1}), Predictions)
    endpoint.complete(["hi"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    endpoint.complete("hi", stop=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    endpoint.chat(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    app = client.driver_app("7777")
    assert_type(app, DriverApp)
    assert_type(app.complete("hi", stop="."), str)


class Joke(BaseModel):
    setup: str


class Row(TypedDict):
    a: int


async def structured(client: AsyncClient, plain: Client) -> None:
    reply = await client.endpoint("e").chat("hi", response_model=Joke, temperature=0.1)
    assert_type(reply, ChatCompletion[Joke])
    assert_type(reply.parsed, Joke)
    assert_type((await client.endpoint("e").chat("hi")).parsed, None)
    assert_type((await client.endpoint("e").chat("hi", response_model=Row)).parsed, Row)
    assert_type(plain.endpoint("e").chat("hi", response_model=Joke).parsed, Joke)
    assert_type(plain.endpoint("e").chat("hi").parsed, None)
    assert_type(plain.endpoint("e").stream_chat("hi", response_model=Joke).final().parsed, Joke)
    await client.endpoint("e").chat("hi", response_model=3)  # type: ignore[arg-type]  # pyright: ignore


async def agents(client: AsyncClient, plain: Client) -> None:
    reply = await client.endpoint("e").respond("hi", custom_inputs={"a": 1}, temperature=0.1)
    assert_type(reply, Response)
    assert_type(reply.text, str)
    assert_type(reply.output, list[OutputItem])
    assert_type(reply.custom_outputs, dict[str, Any] | None)
    assert_type(plain.endpoint("e").respond([{"role": "user", "content": "hi"}]), Response)
    async with client.endpoint("e").stream_respond([Message(role="user", content="x"), *reply.output]) as stream:
        assert_type(stream, AsyncStream[ResponseEvent, Response])
        async for event in stream:
            assert_type(event, ResponseEvent)
    assert_type(plain.endpoint("e").stream_respond("x").final(), Response)


def replies(reply: ChatCompletion, vectors: Embeddings, rows: Predictions) -> None:
    assert_type(reply.text, str)
    assert_type(reply.message, Message)
    assert_type(reply.finish_reason, str | None)
    assert_type(reply.usage, Usage | None)
    assert_type(reply.request_id, str | None)
    assert_type(reply.attempts, int)
    assert_type(reply.raw, Raw | None)
    assert_type(reply.message.text, str)
    assert_type(vectors.vectors, list[list[float]])
    for vector in vectors:
        assert_type(vector, list[float])
    for row in rows:
        assert_type(row, Any)
    assert_type(len(vectors) + len(rows), int)
    assert_type(rows.predictions, Any)
    assert_type(Raw(200).headers, Mapping[str, str])
    assert_type(Usage().prompt_tokens, int | None)


async def apps(client: AsyncClient, plain: Client) -> None:
    agent = client.agent("my-agent")
    assert_type(agent, AsyncAgent)
    assert_type(await agent.respond("hi", session_id="s", custom_inputs={}), Response)
    assert_type(await agent.complete("hi"), str)
    assert_type(agent.stream_respond("hi"), AsyncStream[ResponseEvent, Response])
    run = await agent.start("hi", id="x")
    assert_type(run, AsyncRun)
    assert_type(run.id, str)
    assert_type(await run.status(), str)
    assert_type(await run.result(timeout=5), Response)
    assert_type(run.events(after=3), AsyncStream[ResponseEvent, Response])
    assert_type(run.events().cursor, int | None)
    assert_type(agent.run("x"), AsyncRun)
    assert_type(plain.agent(url="https://x"), Agent)
    assert_type(plain.agent("a").start("hi"), Run)
    assert_type(plain.agent("a").run("x").result(), Response)
    assert_type(plain.agent("a").run("x").cancel(), str)
    plain.agent(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def managing() -> None:
    client = AsyncClient()
    assert_type(client.endpoints, AsyncEndpoints)
    assert_type(client.secrets, AsyncSecrets)
    assert_type(await client.endpoints.create("e", {}, tags={"a": "b"}, wait=True, timeout=5), ServingEndpoint)
    assert_type(await client.endpoints.list(), list[ServingEndpoint])
    assert_type(await client.endpoints.update_tags("e", {"a": "b"}), dict[str, str])
    assert_type(client.model_services, AsyncModelServices)
    assert_type(client.model_providers, AsyncModelProviders)
    assert_type(await client.model_services.list(), list[ModelService])
    assert_type(await client.model_providers.list("main.ml"), list[ModelProvider])
    assert_type(await client.model_services.update("a.b.c", {}, update_mask=["comment"], etag="e"), ModelService)
    assert_type(await client.model_services.grant("a.b.c", "group"), dict[str, list[str]])
    assert_type((await client.model_services.get("a.b.c")).supported_api_types, list[str])
    assert_type(client.endpoint("a.b.c", gateway="openai"), AsyncEndpoint)
    assert_type(client.endpoint("a", tags={"b": "c"}, fallback=["d"]), AsyncEndpoint)
    assert_type(client.with_options(tags={"b": "c"}), AsyncClient)
    reply = await client.endpoint("a").chat({"role": "user", "content": ["x", image("a.png")]}, tags={"b": "c"})
    assert_type(reply.answered_by, str)
    assert_type(reply.message.reasoning, str)
    assert_type((reply.usage or Usage()).cached_tokens, int | None)
    assert_type((reply.usage or Usage()).reasoning_tokens, int | None)
    assert_type(audio(b"x", media_type="audio/wav"), dict[str, Any])
    assert_type(file("a.pdf", name="b.pdf"), dict[str, Any])
    await client.endpoint("a").complete("x", tags={"b": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    client.endpoint("a", gateway="other")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await client.secrets.get("s", "k"), str)
    assert_type(await client.secrets.list("s"), list[SecretMetadata])
    plain = Client()
    assert_type(plain.endpoints, Endpoints)
    assert_type(plain.secrets, Secrets)
    assert_type(plain.model_services, ModelServices)
    assert_type(plain.model_providers, ModelProviders)
    assert_type(plain.model_services.create("a.b.c", {}, comment="c"), ModelService)
    assert_type(plain.model_providers.get("a.b.c"), ModelProvider)
    assert_type(plain.model_services.delete("a.b.c", etag="e"), None)
    assert_type(plain.endpoints.wait_until_ready("e", timeout=5), ServingEndpoint)
    assert_type(plain.endpoints.get("e").is_ready, bool)
    assert_type(plain.secrets.get_bytes("s", "k"), bytes)
    assert_type(plain.secrets.put("s", "k", b"v"), None)
    assert_type(plain.secrets.list_scopes(), list[SecretScope])
