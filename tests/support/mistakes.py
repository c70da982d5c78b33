"""What people type wrong: each cause as a few lines of a program, once for `Client` and `AsyncClient`.

In plain code the methods of `w.client(...)` are those of `Client` with `async` in front (see `support.modes`), so one
body stands for both. Rows of `ASYNC` and `PLAIN` are mistakes that can be made with one of the two only.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import gc
import os
import pathlib
import pickle
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pandas  # type: ignore[import-untyped, unused-ignore]
import pytest
from support.modes import Plain
from support.samples import chat_answer, vectors_answer

import dbllm
from dbllm import Retry, Timeout
from dbllm._protocol.requests import chat_messages, prompt_request
from dbllm._protocol.tables import read_texts

TOKEN = "dapi00112233445566778899aabbccddeeff"
ELSEWHERE = "https://from-the-environment.example.com"


class World:
    """What a row works with.

    Attributes:
        kind: the class of client.
        is_async: whether that is `AsyncClient`.
        host: a workspace that answers; `tls` a port of a server that speaks TLS; `plain_openai` a server that is none.
        home: the user's home folder.
    """

    def __init__(self, is_async: bool, hosts: Mapping[str, str], home: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
        self.is_async, self.hosts, self.home, self.patch = is_async, hosts, home, patch
        self.kind: Any = dbllm.AsyncClient if is_async else dbllm.Client
        self.host = hosts["workspace"]
        self.made: list[Any] = []

    def env(self, **variables: str) -> None:
        for name, value in variables.items():
            self.patch.setenv(name, value)

    def config_file(self, text: str | bytes) -> None:
        (self.home / ".databrickscfg").write_bytes(text if isinstance(text, bytes) else text.encode())

    def raw(self, *args: Any, **options: Any) -> Any:
        """The client itself, in its own mode."""
        self.made.append(self.kind(*args, **options))
        return self.made[-1]

    def client(self, *args: Any, **options: Any) -> Any:
        """A client whose methods are awaited in both modes."""
        made = self.raw(*args, **options)
        return made if self.is_async else Plain(made)

    def here(self, **options: Any) -> Any:
        """A client of the workspace that answers."""
        return self.client(self.host, TOKEN, **{"retry": Retry(attempts=1), **options})

    def ep(self, name: str = "chat", **options: Any) -> Any:
        return self.here().endpoint(name, **options)


async def fetch_token() -> str:
    await asyncio.sleep(0)
    return TOKEN


async def shout(prompt: str, **_: object) -> dict[str, str]:
    await asyncio.sleep(0)
    return {"prompt": prompt.upper()}


def of_sync() -> str:
    return TOKEN


class Weather:
    """A tool, as a plain class."""


class HumanMessage:
    """A message, as LangChain has them."""

    type, content = "human", "hi"


async def read(stream: Any) -> None:
    async with stream:
        async for _ in stream:
            pass


Row = Callable[[World], Any]


def _env(row: Row, **variables: str) -> Row:
    def with_variables(w: World) -> Any:
        w.env(**variables)
        return row(w)

    return with_variables


def _elsewhere(row: Row) -> Row:
    """Where another workspace is configured in the environment, to which the token must not go."""
    return _env(row, DATABRICKS_HOST=ELSEWHERE, DATABRICKS_TOKEN="dapi-of-the-environment")


HOSTS: dict[str, Row] = {
    "host= is a pathlib.Path": _elsewhere(lambda w: w.raw(pathlib.Path("https://w.example.com"), TOKEN)),
    "host= is a number": _elsewhere(lambda w: w.raw(5, TOKEN)),
    "host= is bytes": _elsewhere(lambda w: w.raw(b"https://w.example.com", TOKEN)),
    "host= is a list": _elsewhere(lambda w: w.raw(["https://w.example.com"], TOKEN)),
    "host= is empty": lambda w: w.raw("", TOKEN),
    "host and token are exchanged": lambda w: w.raw(TOKEN, "https://w.cloud.databricks.com"),
    "host= has the path of the REST API": lambda w: w.raw("https://w.example.com:8443/api/2.0", TOKEN),
    "host= is an endpoint's own URL": lambda w: w.raw(
        "https://w.example.com:8443/serving-endpoints/dolly/invocations", TOKEN
    ),
    "host= is OpenAI's base URL of a workspace": lambda w: w.raw("https://w.example.com/serving-endpoints", TOKEN),
    "host= has a query": lambda w: w.raw("https://w.example.com:8443/?a=1", TOKEN),
    "host= is http on another machine": lambda w: w.raw("http://w.example.com:8080", TOKEN),
    "host= has a user name and a password": lambda w: w.raw(f"https://token:{TOKEN}@w.example.com", None),
    "host= lacks a slash after https:": lambda w: w.raw("https:/w.example.com", TOKEN),
    "host= has a scheme with a typing error": lambda w: w.raw("htps://w.example.com", TOKEN),
    "host= is a placeholder": lambda w: w.raw("https://<your-workspace>.cloud.databricks.com", TOKEN),
    "host= is a variable that no shell has replaced": lambda w: w.raw("${DATABRICKS_HOST}", TOKEN),
    "host= has a port that is none": lambda w: w.raw("https://w.example.com:port", TOKEN),
    "host= is the account console": lambda w: w.raw("https://accounts.cloud.databricks.com", TOKEN),
    "host= has two lines": lambda w: w.raw("https://w.example.com\nDATABRICKS_TOKEN=x", TOKEN),
}


def _file(text: str | bytes, row: Row) -> Row:
    def with_file(w: World) -> Any:
        w.config_file(text)
        return row(w)

    return with_file


async def _tried(w: World, token: Any) -> None:
    await w.client(w.host, token, retry=Retry(attempts=1)).endpoint("chat").chat("hi")


CREDENTIALS: dict[str, Row] = {
    "nothing is configured": lambda w: w.raw(),
    "a host without a token": lambda w: w.raw("https://w.example.com"),
    "DATABRICKS_HOST is another workspace than host=": _env(
        lambda w: w.raw("https://w.example.com"), DATABRICKS_HOST=ELSEWHERE, DATABRICKS_TOKEN=TOKEN
    ),
    "the token is in a variable of other tools": _env(
        lambda w: w.raw(), DATABRICKS_HOST="https://w.example.com", DATABRICKS_ACCESS_TOKEN=TOKEN
    ),
    "the host is in a variable of other tools": _env(
        lambda w: w.raw(), DATABRICKS_SERVER_HOSTNAME="w.example.com", DATABRICKS_TOKEN=TOKEN
    ),
    "token= ends with a line break": lambda w: w.raw("https://w.example.com", TOKEN + "\n"),
    "token= is in quotes": lambda w: w.raw("https://w.example.com", f'"{TOKEN}"'),
    "token= begins with Bearer": lambda w: w.raw("https://w.example.com", f"Bearer {TOKEN}"),
    "token= is a placeholder": lambda w: w.raw("https://w.example.com", "<your-token>"),
    "token= is a variable that no shell has replaced": lambda w: w.raw("https://w.example.com", "$DATABRICKS_TOKEN"),
    "token= is empty": lambda w: w.raw("https://w.example.com", ""),
    "token= is a number": lambda w: w.raw("https://w.example.com", 5),
    "token= is a dict of headers": lambda w: w.raw("https://w.example.com", {"Authorization": f"Bearer {TOKEN}"}),
    "token= is the name of the variable": lambda w: w.raw("https://w.example.com", "DATABRICKS_TOKEN"),
    "a token function returns None": lambda w: _tried(w, lambda: None),
    "a token function returns a header": lambda w: _tried(w, lambda: {"Authorization": f"Bearer {TOKEN}"}),
    "a token function returns Bearer and a token": lambda w: _tried(w, lambda: f"Bearer {TOKEN}"),
    "token= and client_id=": lambda w: w.raw("https://w.example.com", TOKEN, client_id="a", client_secret="b"),
    "client_id= without client_secret=": lambda w: w.raw("https://w.example.com", client_id="a"),
    "auth_type= with a typing error": lambda w: w.raw("https://w.example.com", TOKEN, auth_type="aouth-m2m"),
    "a profile that is not there": _file(
        "[DEFAULT]\nhost = https://w.example.com\n[prod]\nhost = https://p.example.com\n",
        lambda w: w.raw(profile="prd"),
    ),
    "a profile without a file": lambda w: w.raw(profile="prod"),
    "a profile without a host": _file(f"[prod]\ntoken = {TOKEN}\n", lambda w: w.raw(profile="prod")),
    "a profile without a token": _file("[prod]\nhost = https://w.example.com\n", lambda w: w.raw(profile="prod")),
    "a file of profiles without a section": _file("host = https://w.example.com\n", lambda w: w.raw(profile="prod")),
    "a file of profiles with a broken line": _file(
        "[prod]\nhost = https://w.example.com\nnonsense\n", lambda w: w.raw(profile="prod")
    ),
    "a file of profiles with a key twice": _file(
        f"[prod]\nhost = https://w.example.com\ntoken = {TOKEN}\ntoken = {TOKEN}\n", lambda w: w.raw(profile="prod")
    ),
    "a file of profiles in UTF-16": _file("[prod]\n".encode("utf-16"), lambda w: w.raw(profile="prod")),
    "a comment behind a value": _file("[prod]\nhost = https://w.example.com # ours\n", lambda w: w.raw(profile="prod")),
}


def _client(**options: Any) -> Row:
    return lambda w: w.raw("https://w.example.com", TOKEN, **options)


OPTIONS: dict[str, Row] = {
    "timeout= is negative": _client(timeout=-1),
    "timeout= is 0": _client(timeout=0),
    "timeout= is text": _client(timeout="30"),
    "timeout= is a pair, as requests takes it": _client(timeout=(5, 30)),
    "timeout= is httpx's": _client(timeout=httpx.Timeout(5)),
    "timeout= is a timedelta": _client(timeout=datetime.timedelta(seconds=5)),
    "a field that Timeout does not have": lambda w: Timeout(write=5),  # type: ignore[call-arg]
    "retry= is a number": _client(retry=3),
    "retry= is False": _client(retry=False),
    "a field that Retry does not have": lambda w: Retry(max_attempts=3),  # type: ignore[call-arg]
    "a field that Limits does not have": lambda w: dbllm.Limits(max_connections=3),  # type: ignore[call-arg]
    "a field that Hooks does not have": lambda w: dbllm.Hooks(on_request_start=print),  # type: ignore[call-arg]
    "Retry of no attempt": lambda w: Retry(attempts=0),
    "max_connections= is 0": _client(max_connections=0),
    "max_connections= is text": _client(max_connections="10"),
    "max_connections= is httpx's limits": _client(max_connections=httpx.Limits()),
    "transport= is of the other mode": lambda w: w.raw(
        "https://w.example.com", TOKEN, transport=httpx.HTTPTransport() if w.is_async else httpx.AsyncHTTPTransport()
    ),
    "transport= is a class": _client(transport=httpx.MockTransport),
    "http_client= is of the other mode": lambda w: w.raw(
        "https://w.example.com", TOKEN, http_client=httpx.Client() if w.is_async else httpx.AsyncClient()
    ),
    "http_client= is a class": lambda w: w.raw(
        "https://w.example.com", TOKEN, http_client=httpx.AsyncClient if w.is_async else httpx.Client
    ),
    "transport= and http_client=": lambda w: w.raw(
        "https://w.example.com",
        TOKEN,
        transport=httpx.MockTransport(lambda _: httpx.Response(200)),
        http_client=httpx.AsyncClient() if w.is_async else httpx.Client(),
    ),
    "engine= that is not known": _client(engine="requests"),
    "headers= is a list": _client(headers=[("a", "b")]),
    "headers= with a number": lambda w: w.here(headers={"x-team": 5}).endpoint("chat").chat("hi"),
    "headers= with a line break": lambda w: w.here(headers={"x-team": "a\nb"}).endpoint("chat").chat("hi"),
    "tags= is a list": _client(tags=["a"]),
    "tags= with a number": _client(tags={"project": 5}),
    "verify= is a file that is not there": _client(verify="/no/such/ca.pem"),
    "verify= is None": _client(verify=None),
    "cert= is a file that is not there": _client(cert="/no/such/cert.pem"),
    "proxy= is a dict, as requests takes it": _client(proxy={"https": "http://p:3128"}),
    "on_attempt= is no function": _client(on_attempt="log"),
    "limits= is httpx's": lambda w: w.here(limits=httpx.Limits()).endpoint("chat"),
    "max_retries=": _client(max_retries=3),
    "api_key=": lambda w: w.raw(api_key=TOKEN),
    "base_url=": lambda w: w.raw(base_url="https://w.example.com/serving-endpoints", token=TOKEN),
    "model=": _client(model="databricks-dbrx-instruct"),
    "default_headers=": _client(default_headers={"a": "b"}),
    "proxies=": _client(proxies={"https": "http://p:3128"}),
    "organization=": _client(organization="org"),
    "access_token=": lambda w: w.raw("https://w.example.com", access_token=TOKEN),
    "an option with a typing error": _client(time_out=5),
    "an option that nobody has": _client(colour="blue"),
    "too many positional arguments": lambda w: w.raw("https://w.example.com", TOKEN, "prod"),
    "with_options(max_retries=)": lambda w: w.raw("https://w.example.com", TOKEN).with_options(max_retries=2),
    "with_options(token=)": lambda w: w.raw("https://w.example.com", TOKEN).with_options(token=TOKEN),
}


def _attribute(name: str, of: str = "client") -> Row:
    def row(w: World) -> Any:
        client = w.raw("https://w.example.com", TOKEN)
        return getattr(client if of == "client" else client.endpoint("chat"), name)

    return row


NAMES: dict[str, Row] = {
    "client.chat": _attribute("chat"),
    "client.completions": _attribute("completions"),
    "client.embeddings": _attribute("embeddings"),
    "client.models": _attribute("models"),
    "client.responses": _attribute("responses"),
    "client.serving_endpoints": _attribute("serving_endpoints"),
    "client.predict": _attribute("predict"),
    "client.ChatCompletion": _attribute("ChatCompletion"),
    "client.api_key": _attribute("api_key"),
    "client.endpont": _attribute("endpont"),
    "client.nonsense": _attribute("nonsense"),
    "endpoint.invoke": _attribute("invoke", "endpoint"),
    "endpoint.query": _attribute("query", "endpoint"),
    "endpoint.stream": _attribute("stream", "endpoint"),
    "endpoint.create": _attribute("create", "endpoint"),
    "endpoint.embeddings": _attribute("embeddings", "endpoint"),
    "endpoint.achat": _attribute("achat", "endpoint"),
    "endpoint.delete": _attribute("delete", "endpoint"),
    "dbllm.OpenAI": lambda w: getattr(dbllm, "OpenAI"),  # noqa: B009
    "dbllm.ChatDatabricks": lambda w: getattr(dbllm, "ChatDatabricks"),  # noqa: B009
    "from dbllm import OpenAI": lambda w: __import__("dbllm", fromlist=["OpenAI"]),
    "from dbllm import Clent": lambda w: __import__("dbllm", fromlist=["Clent"]),
    "reply.content": lambda w: dbllm.ChatCompletion.model_validate(chat_answer()).content,  # type: ignore[attr-defined]
    "reply.tool_calls": lambda w: getattr(dbllm.ChatCompletion.model_validate(chat_answer()), "tool_calls"),  # noqa: B009
    "reply['choices']": lambda w: dbllm.ChatCompletion.model_validate(chat_answer())["choices"],  # type: ignore[index]
    "embeddings.embeddings": lambda w: getattr(dbllm.Embeddings.model_validate(vectors_answer([1.0])), "embeddings"),  # noqa: B009
    "dbllm.get_deploy_client": lambda w: getattr(dbllm, "get_deploy_client"),  # noqa: B009
}

ENDPOINTS: dict[str, Row] = {
    "an endpoint's name with a space at its end": lambda w: w.ep("chat "),
    "an endpoint's name with a space in it": lambda w: w.ep("my chat"),
    "an endpoint's name is its URL": lambda w: w.ep("https://w.example.com/serving-endpoints/dolly/invocations"),
    "an endpoint's name is a path": lambda w: w.ep("/serving-endpoints/dolly/invocations"),
    "an endpoint's name with a slash at its end": lambda w: w.ep("chat/"),
    "an endpoint's name as LiteLLM has it": lambda w: w.ep("databricks/databricks-dbrx-instruct"),
    "an endpoint's name as MLflow has it": lambda w: w.ep("endpoints:/dolly"),
    "the name of an app of Databricks Apps": lambda w: w.ep("apps/my-agent"),
    "an endpoint's name is empty": lambda w: w.ep(""),
    "an endpoint's name is None": lambda w: w.ep(None),  # type: ignore[arg-type]
    "an endpoint's name is a number": lambda w: w.ep(5),  # type: ignore[arg-type]
    "an endpoint's name is a list": lambda w: w.ep(["a", "b"]),  # type: ignore[arg-type]
    "a model service's name with one dot": lambda w: w.ep("main.chat"),
    "an endpoint's name in other case": lambda w: w.ep("Chat").chat("hi"),
    "an endpoint that is not there": lambda w: w.ep("chatt").chat("hi"),
    "a task that is none": lambda w: w.ep(task="chats"),
    "endpoint(temperature=)": lambda w: w.ep(temperature=0.1),
    "endpoint(model=)": lambda w: w.here().endpoint(model="chat"),
    "params= is a list": lambda w: w.ep(params=["temperature"]),
    "transform_input= is no function": lambda w: w.ep(transform_input="upper"),
    "a fallback to itself": lambda w: w.ep(fallback=["chat"]),
    "a fallback that is a number": lambda w: w.ep(fallback=5),
    "limits= of an endpoint is a number": lambda w: w.ep(limits=5),
    "a driver app's port is out of range": lambda w: w.here().driver_app(80, "c"),
    "a driver app without a cluster": lambda w: w.here().driver_app(7777),
    "an agent without a name": lambda w: w.here().agent(),
    "an agent's name is a URL": lambda w: w.here().agent("https://my-agent-1.aws.databricksapps.com"),
    "an agent's url= is the workspace's": lambda w: w.here().agent(url="https://w.example.com"),
}

ARGUMENTS: dict[str, Row] = {
    "messages is None": lambda w: w.ep().chat(None),
    "messages is a number": lambda w: w.ep().chat(5),
    "messages is empty": lambda w: w.ep().chat([]),
    "messages is a list of str": lambda w: w.ep().chat(["hi"]),
    "messages are pairs, as LangChain takes them": lambda w: w.ep().chat([("user", "hi")]),
    "a message without a role": lambda w: w.ep().chat([{"content": "hi"}]),
    "a message with a role of LangChain's": lambda w: w.ep().chat([{"role": "human", "content": "hi"}]),
    "a message with a role in capitals": lambda w: w.ep().chat([{"role": "User", "content": "hi"}]),
    "a message is one of LangChain's": lambda w: w.ep().chat([HumanMessage()]),
    "chat(max_retries=)": lambda w: w.ep().chat("hi", max_retries=3),
    "chat(api_key=)": lambda w: w.ep().chat("hi", api_key=TOKEN),
    "chat(stream=True)": lambda w: w.ep().chat("hi", stream=True),
    "chat(timeuot=)": lambda w: w.ep().chat("hi", timeuot=3),
    "chat(extra_headers=)": lambda w: w.ep().chat("hi", extra_headers={"a": "b"}),
    "the call's timeout= is negative": lambda w: w.ep().chat("hi", timeout=-5),
    "the call's retry= is a number": lambda w: w.ep().chat("hi", retry=5),
    "the call's headers= is text": lambda w: w.ep().chat("hi", headers="a: b"),
    "the call's headers= with a number": lambda w: w.ep().chat("hi", headers={"x-team": 5}),
    "extra_body= is a list": lambda w: w.ep().chat("hi", extra_body=["a"]),
    "stop= is a number": lambda w: w.ep().chat("hi", stop=5),
    "stop= is a list of numbers": lambda w: w.ep().chat("hi", stop=[5]),
    "temperature= is NaN": lambda w: w.ep().chat("hi", temperature=float("nan")),
    "temperature= is out of range": lambda w: w.ep().chat("hi", temperature=9),
    "tools= has a function": lambda w: w.ep().chat("hi", tools=[of_sync]),
    "tools= has a class": lambda w: w.ep().chat("hi", tools=[Weather]),
    "tools= is a dict": lambda w: w.ep().chat("hi", tools={"name": "weather"}),
    "response_model= is a dict": lambda w: w.ep().chat("hi", response_model={"type": "object"}),
    "response_model= is an object": lambda w: w.ep().chat("hi", response_model=Weather()),
    "complete() of a list": lambda w: w.ep().complete(["a", "b"]),
    "complete() of messages": lambda w: w.ep().complete([{"role": "user", "content": "hi"}]),
    "complete() of None": lambda w: w.ep().complete(None),
    "complete(n=2)": lambda w: w.ep().complete("hi", n=2),
    "complete() of an endpoint that embeds": lambda w: w.ep("vectors").complete("hi"),
    "chat() of an endpoint that embeds": lambda w: w.ep("vectors").chat("hi"),
    "embed() of an endpoint that chats": lambda w: w.ep().embed("hi"),
    "embed() of None": lambda w: w.ep("vectors").embed(None),
    "embed() of nothing": lambda w: w.ep("vectors").embed([]),
    "embed() of numbers": lambda w: w.ep("vectors").embed([1, 2]),
    "embed() of lists": lambda w: w.ep("vectors").embed([["hi"]]),
    "embed() of bytes": lambda w: w.ep("vectors").embed(b"hi"),
    "embed(batch_size=0)": lambda w: w.ep("vectors").embed(["hi"], batch_size=0),
    "predict() of nothing": lambda w: w.ep("rows").predict(),
    "predict() of two forms": lambda w: w.ep("rows").predict(inputs=[1], instances=[2]),
    "respond(stop=)": lambda w: w.ep().respond("hi", stop=["."]),
    "respond() of None": lambda w: w.ep().respond(None),
    "complete(max_tokens=) of an agent": lambda w: w.here().agent(url=w.host).complete("hi", max_tokens=5),
    "complete(stop=) of an agent": lambda w: w.here().agent(url=w.host).complete("hi", stop=["."]),
    "request() of a path without a slash": lambda w: w.here().request("GET", "api/2.0/clusters/list"),
    "request() of a URL": lambda w: w.here().request("GET", "https://w.example.com/api/2.0/clusters/list"),
    "bytes in a body": lambda w: w.ep().chat([{"role": "user", "content": b"hi"}]),
    "a key beside a config": lambda w: w.here().model_providers.create(
        "main.ml.openai", {"openai_config": {"api_key": {"value": "sk-0123456789abcdef"}}}
    ),
    "create() of an endpoint with a typing error": lambda w: w.here().endpoints.create(
        "my-chat", {"served_entities": [{"external_modle": {}}]}
    ),
    "secrets.get() of one name": lambda w: w.here().secrets.get("scope/key"),
    "secrets.put() of a number": lambda w: w.here().secrets.put("s", "k", 5),
}


async def _closed(w: World) -> None:
    client = w.here()
    await client.aclose()
    await client.endpoint("chat").chat("hi")


async def _closed_while_read(w: World) -> None:
    client = w.here()
    async with client.endpoint("endless").stream_chat("hi") as stream:
        async for _ in stream:
            await client.aclose()


async def _read_twice(w: World) -> None:
    stream = w.ep().stream_chat("hi")
    await read(stream)
    async for _ in stream:
        pass


async def _read_after_final(w: World) -> None:
    async with w.ep().stream_chat("hi") as stream:
        await stream.final()
        async for _ in stream:
            pass


async def _read_after_close(w: World) -> None:
    async with w.ep("endless").stream_chat("hi") as stream:
        pass
    async for _ in stream:
        pass


async def _final_after_close(w: World) -> None:
    async with w.ep("endless").stream_chat("hi") as stream:
        pass
    await stream.final()


async def _entered_twice(w: World) -> None:
    stream = w.ep().stream_chat("hi")
    await read(stream)
    await read(stream)


STREAMS: dict[str, Row] = {
    "a call of a client that is closed": _closed,
    "a client is closed while a stream is read": _closed_while_read,
    "a stream is read twice": _read_twice,
    "a stream is read after final()": _read_after_final,
    "a stream is read after its block": _read_after_close,
    "final() after the block of a stream that was not read": _final_after_close,
    "a stream is entered twice": _entered_twice,
    "a client is pickled": lambda w: pickle.dumps(w.raw(w.host, TOKEN)),
    "an endpoint is pickled": lambda w: pickle.dumps(w.raw(w.host, TOKEN).endpoint("chat")),
    "a stream with transform_output=": lambda w: w.ep(transform_output=str).stream_complete("hi"),
    "reply of a stream": lambda w: w.ep().stream_chat("hi").choices,
    "a stream that stalls": lambda w: read(w.ep("endless").stream_chat("hi", timeout=Timeout(total=5, read=0.05))),
    "a stream that breaks": lambda w: read(w.ep("broken").stream_chat("hi")),
}


def _unknown_name(w: World) -> Any:
    def look_up(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    w.patch.setattr(socket, "getaddrinfo", look_up)
    client = w.client("https://no-such-name.example.com", TOKEN, retry=Retry(attempts=1))
    return client.endpoint("x").chat("hi")


ANSWERS: dict[str, Row] = {
    "the token is not valid": lambda w: w.ep("forbidden").chat("hi"),
    "there is no credential": lambda w: w.ep("unauthorized").chat("hi"),
    "an external provider refuses its key": lambda w: w.ep("provider-key").chat("hi"),
    "a server that speaks OpenAI's API": lambda w: (
        w.client(w.hosts["plain"], TOKEN, retry=Retry(attempts=1)).endpoint("gpt").chat("hi")
    ),
    "a sign-in page answers": lambda w: w.ep("page").chat("hi"),
    "a redirect answers": lambda w: w.ep("redirect").chat("hi"),
    "nobody listens": lambda w: (
        w.client(w.hosts["nobody"], TOKEN, retry=Retry(attempts=1)).endpoint("x", task="chat").chat("hi")
    ),
    "the host's name is not known": _unknown_name,
    "https to a port that speaks http": lambda w: (
        w.client(w.hosts["plain"].replace("http:", "https:"), TOKEN, retry=Retry(attempts=1)).endpoint("x").chat("hi")
    ),
    "https to a port where nobody greets": lambda w: (
        w.client(
            w.hosts["silent"].replace("http:", "https:"),
            TOKEN,
            retry=Retry(attempts=1),
            timeout=Timeout(total=9, connect=0.1),
        )
        .endpoint("x")
        .chat("hi")
    ),
    "http to a port that speaks https": lambda w: (
        w.client(w.hosts["tls"], TOKEN, retry=Retry(attempts=1), timeout=5).endpoint("x").chat("hi")
    ),
    "no answer in time": lambda w: w.ep("slow").chat("hi", timeout=0.4),
    "an input that is too long": lambda w: w.ep("long").chat("hi"),
    "too many calls": lambda w: w.ep("limited").chat("hi"),
    "a model that failed": lambda w: w.ep("failing").chat("hi"),
}


def _with_reply(use: Callable[[Any], Any], verb: str = "chat", name: str = "chat", value: Any = "hi") -> Row:
    """A row that does something with the reply of a verb."""

    async def row(w: World) -> None:
        use(await getattr(w.ep(name), verb)(value))

    return row


def _with_vectors(use: Callable[[Any], Any]) -> Row:
    return _with_reply(use, "embed", "vectors")


def _with_predictions(use: Callable[[Any], Any]) -> Row:
    return _with_reply(use, "predict", "rows", [{"a": 1}])


def _with_chunk(use: Callable[[Any], Any]) -> Row:
    async def row(w: World) -> None:
        async with w.ep().stream_chat("hi") as stream:
            async for chunk in stream:
                use(chunk)

    return row


def _with_error(use: Callable[[Any], Any]) -> Row:
    async def row(w: World) -> None:
        failed = None
        try:
            await w.ep("limited").chat("hi")
        except dbllm.APIStatusError as error:
            failed = error
        use(failed)

    return row


REPLIES: dict[str, Row] = {
    "for over a chat's reply": _with_reply(list),
    "len() of a chat's reply": _with_reply(len),
    "dict() of a chat's reply": _with_reply(dict),
    "a chat's reply + text": _with_reply(lambda reply: "Answer: " + reply),
    "reply.strip()": _with_reply(lambda reply: reply.strip()),
    "reply.get('choices')": _with_reply(lambda reply: reply.get("choices")),
    "reply.total_tokens": _with_reply(lambda reply: reply.total_tokens),
    "reply.usage.input_tokens": _with_reply(lambda reply: reply.usage.input_tokens),
    "reply.usage['total_tokens']": _with_reply(lambda reply: reply.usage["total_tokens"]),
    "reply.message['content']": _with_reply(lambda reply: reply.message["content"]),
    "reply.choices[0].content": _with_reply(lambda reply: reply.choices[0].content),
    "reply.choices[0].delta": _with_reply(lambda reply: reply.choices[0].delta),
    "reply.message.function_call": _with_reply(lambda reply: reply.message.function_call),
    "for over a completion's reply": _with_reply(list, "generate"),
    "embeddings[0]": _with_vectors(lambda vectors: vectors[0]),
    "embeddings['data']": _with_vectors(lambda vectors: vectors["data"]),
    "embeddings.shape": _with_vectors(lambda vectors: vectors.shape),
    "embeddings.tolist()": _with_vectors(lambda vectors: vectors.tolist()),
    "embeddings + embeddings": _with_vectors(lambda vectors: vectors + vectors),
    "predictions[0]": _with_predictions(lambda rows: rows[0]),
    "predictions.outputs": _with_predictions(lambda rows: rows.outputs),
    "predictions.to_pandas()": _with_predictions(lambda rows: rows.to_pandas()),
    "for over predictions that are no list": lambda w: list(
        dbllm.Predictions.model_validate({"predictions": {"a": 1}})
    ),
    "chunk.content": _with_chunk(lambda chunk: chunk.content),
    "chunk.delta": _with_chunk(lambda chunk: chunk.delta),
    "chunk['choices']": _with_chunk(lambda chunk: chunk["choices"]),
    "text + chunk": _with_chunk(lambda chunk: "" + chunk),
    "chunk.choices[0].message": _with_chunk(lambda chunk: chunk.choices[0].message),
    "error.status_code": _with_error(lambda error: error.status_code),
    "error.response": _with_error(lambda error: error.response),
    "error.body": _with_error(lambda error: error.body),
    "error.nonsense": _with_error(lambda error: error.nonsense),
}


def _of(use: Callable[[Any], Any], of: str = "endpoint") -> Row:
    """A row that does something with a client, an endpoint of it, or another thing that it has."""

    def row(w: World) -> Any:
        client = w.raw("https://w.example.com", TOKEN)
        things = {"client": lambda: client, "endpoint": lambda: client.endpoint("chat"), "app": lambda: _app(client)}
        things["stream"] = lambda: client.endpoint("chat").stream_chat("hi")
        return use(things[of]() if of in things else getattr(client, of))

    return row


def _app(client: Any) -> Any:
    return client.driver_app(7777, "c")


THINGS: dict[str, Row] = {
    "client('chat')": _of(lambda client: client("chat"), "client"),
    "client['chat']": _of(lambda client: client["chat"], "client"),
    "endpoint('hi')": _of(lambda endpoint: endpoint("hi")),
    "endpoint['hi']": _of(lambda endpoint: endpoint["hi"]),
    "for over an endpoint": _of(list),
    "app('hi')": _of(lambda app: app("hi"), "app"),
    "stream[0]": _of(lambda stream: stream[0], "stream"),
    "stream()": _of(lambda stream: stream(), "stream"),
    "stream.collect()": _of(lambda stream: stream.collect(), "stream"),
    "stream.headers": _of(lambda stream: stream.headers, "stream"),
    "client.endpoints['chat']": _of(lambda area: area["chat"], "endpoints"),
    "client.endpoints('chat')": _of(lambda area: area("chat"), "endpoints"),
    "for over client.endpoints": _of(list, "endpoints"),
    "client.endpoints.query()": _of(lambda area: area.query("chat"), "endpoints"),
    "client.endpoints.exists()": _of(lambda area: area.exists("chat"), "endpoints"),
    "client.endpoints.update()": _of(lambda area: area.update("chat", {}), "endpoints"),
    "client.secrets['s']": _of(lambda area: area["s"], "secrets"),
    "client.secrets.get_secret()": _of(lambda area: area.get_secret("s", "k"), "secrets"),
    "client.secrets.create()": _of(lambda area: area.create("s", "k", "v"), "secrets"),
    "client.model_services['s']": _of(lambda area: area["s"], "model_services"),
    "client.chat.completions.create()": _of(lambda client: client.chat.completions.create(messages=[]), "client"),
    "client.embeddings.create()": _of(lambda client: client.embeddings.create(input="hi"), "client"),
    "client.complete()": _of(lambda client: client.complete("hi"), "client"),
    "client.post()": _of(lambda client: client.post("/api/2.0/x"), "client"),
    "client.batches": _attribute("batches"),
    "client.image": _attribute("image"),
    "client.get_open_ai_client": _attribute("get_open_ai_client"),
    "endpoint.bind_tools": _attribute("bind_tools", "endpoint"),
    "endpoint.with_structured_output": _attribute("with_structured_output", "endpoint"),
    "endpoint.with_retry": _attribute("with_retry", "endpoint"),
    "endpoint.close": _attribute("close", "endpoint"),
    "endpoint.wait_until_ready": _attribute("wait_until_ready", "endpoint"),
    "local(host=)": lambda w: w.kind.local(host="http://127.0.0.1:8765"),
    "local(token=)": lambda w: w.kind.local(token=TOKEN),
    "local() of a URL": lambda w: w.kind.local("http://127.0.0.1:8765"),
}


def _call(verb: str, *args: Any, of: str = "chat", **options: Any) -> Row:
    return lambda w: getattr(w.ep(of), verb)(*args, **options)


def _request(*args: Any, **options: Any) -> Row:
    return lambda w: w.here().request(*args, **options)


KEYWORDS: dict[str, Row] = {
    "chat(model=)": _call("chat", "hi", model="other"),
    "stream_chat(model=)": lambda w: read(w.ep().stream_chat("hi", model="other")),
    "complete(model=)": _call("complete", "hi", model="other"),
    "generate(engine=)": _call("generate", "hi", engine="other"),
    "stream_complete(model=)": lambda w: read(w.ep().stream_complete("hi", model="other")),
    "respond(model=)": _call("respond", "hi", model="other"),
    "embed(model=)": _call("embed", "hi", of="vectors", model="other"),
    "endpoint(params={'model': …})": lambda w: w.ep(params={"model": "other"}).chat("hi"),
    "chat(fallback=)": _call("chat", "hi", fallback=["other"]),
    "chat(served_model=)": _call("chat", "hi", served_model="b"),
    "chat(token=)": _call("chat", "hi", token=TOKEN),
    "chat(verify=)": _call("chat", "hi", verify=False),
    "chat(functions=)": _call("chat", "hi", functions=[{"name": "weather"}]),
    "chat(function_call=)": _call("chat", "hi", function_call="auto"),
    "chat(max_new_tokens=)": _call("chat", "hi", max_new_tokens=5),
    "chat(stop_sequences=)": _call("chat", "hi", stop_sequences=["."]),
    "chat(system=)": _call("chat", "hi", system="Be brief."),
    "chat(history=)": _call("chat", "hi", history=[]),
    "chat(image=)": _call("chat", "hi", image="a.png"),
    "chat(model_kwargs=)": _call("chat", "hi", model_kwargs={"temperature": 0.1}),
    "chat(output_format=)": _call("chat", "hi", output_format=Weather),
    "chat(response_format=) of a class": _call("chat", "hi", response_format=Weather),
    "chat(temprature=)": _call("chat", "hi", temprature=0.1),
    "chat(stram=)": _call("chat", "hi", stram=True),
    "chat(streaming=)": _call("chat", "hi", streaming=True),
    "chat(max_length=)": _call("chat", "hi", max_length=5),
    "chat(json_schema=)": _call("chat", "hi", json_schema={}),
    "complete(extra_header=) of a custom model": _call("complete", "hi", of="rows", extra_header={"a": "b"}),
    "chat(num_retries=)": _call("chat", "hi", num_retries=2),
    "respond(max_tokens=)": _call("respond", "hi", max_tokens=5),
    "embed(chunk_size=)": _call("embed", ["hi"], of="vectors", chunk_size=5),
    "embed(batchsize=)": _call("embed", ["hi"], of="vectors", batchsize=5),
    "chat('a', 'b')": _call("chat", "a", "b"),
    "chat('a', messages=)": _call("chat", "a", messages="b"),
    "chat() of nothing": _call("chat"),
    "chat(prompt=)": _call("chat", prompt="hi"),
    "stream_chat(prompt=)": lambda w: w.ep().stream_chat(prompt="hi"),
    "complete(messages=)": _call("complete", messages=[{"role": "user", "content": "hi"}]),
    "respond(messages=)": _call("respond", messages="hi"),
    "embed(texts=)": _call("embed", of="vectors", texts=["hi"]),
    "embed(text=)": _call("embed", of="vectors", text="hi"),
    "chat(message=)": _call("chat", message="hi"),
    "complete(text=)": _call("complete", text="hi"),
    "complete(question=)": _call("complete", question="hi"),
    "respond(query=)": _call("respond", query="hi"),
    "predict(dataframe=)": _call("predict", of="rows", dataframe=[]),
    "predict(temperature=)": _call("predict", [{"a": 1}], of="rows", temperature=0.1),
    "predict(data, params)": _call("predict", [{"a": 1}], {"n": 1}, of="rows"),
    "an agent's complete(prompts=)": lambda w: w.here().agent(url=w.host).complete(prompts="hi"),
    "predict(params=) of a list": _call("predict", [{"a": 1}], of="rows", params=["n"]),
    "predict(dataframe_records=) of a dict": _call("predict", of="rows", dataframe_records={"a": {"0": 1}}),
    "predict(dataframe_records=) of text": _call("predict", of="rows", dataframe_records='[{"a": 1}]'),
    "endpoints.list() of a name": lambda w: w.here().endpoints.list("chat"),
    "endpoints.create() of a file's name": lambda w: w.here().endpoints.create("my-chat", "config.json"),
    "endpoints.update_config() of None": lambda w: w.here().endpoints.update_config("chat", None),
    "dbllm.OpenAIError": lambda w: getattr(dbllm, "OpenAIError"),  # noqa: B009
    "dbllm.HumanMessage": lambda w: getattr(dbllm, "HumanMessage"),  # noqa: B009
    "client.timeout = 5": lambda w: setattr(w.raw(w.host, TOKEN), "timeout", 5),
    "client.retry = Retry(…)": lambda w: setattr(w.raw(w.host, TOKEN), "retry", dbllm.Retry()),
    "client.max_retries = 5": lambda w: setattr(w.raw(w.host, TOKEN), "max_retries", 5),
    "client.token = …": lambda w: setattr(w.raw(w.host, TOKEN), "token", TOKEN),
    "client.api_key = …": lambda w: setattr(w.raw(w.host, TOKEN), "api_key", TOKEN),
    "limits= is a number": lambda w: w.here(limits=5),
    "limits= is a dict": lambda w: w.here(limits={"concurrency": 5}),
    "token= is dots": lambda w: w.raw(w.host, "..."),
    "token= is a row of x": lambda w: w.raw(w.host, "dapiXXXXXXXX"),
    "endpoints.get() of nothing": lambda w: w.here().endpoints.get(),
    "endpoints.get('a', 'b')": lambda w: w.here().endpoints.get("a", "b"),
    "endpoints.get(nam=)": lambda w: w.here().endpoints.get(nam="a"),
    "secrets.put(scope)": lambda w: w.here().secrets.put("scope"),
    "secrets.put(secret=)": lambda w: w.here().secrets.put("scope", "key", secret=TOKEN),
    "model_services.get() of nothing": lambda w: w.here().model_services.get(),
    "dbllm.connect": lambda w: getattr(dbllm, "connect"),  # noqa: B009
    "dbllm.exceptions": lambda w: getattr(dbllm, "exceptions"),  # noqa: B009
    "dbllm.Conversation": lambda w: getattr(dbllm, "Conversation"),  # noqa: B009
    "dbllm.api_key": lambda w: getattr(dbllm, "api_key"),  # noqa: B009
    "request(data=)": _request("POST", "/api/2.0/x", data={}),
    "request(body=)": _request("POST", "/api/2.0/x", body={}),
    "request(auth=)": _request("GET", "/api/2.0/x", auth=("token", TOKEN)),
    "request('POST', path, json)": _request("POST", "/api/2.0/x", {}),
    "request(path)": _request("/api/2.0/x"),
    "request(params=) of a list": _request("GET", "/api/2.0/x", params=["a"]),
    "request() of no path": _request("GET", None),
}


def _frame(**columns: list[Any]) -> Any:
    return pandas.DataFrame(columns)


def _cell(value: Any) -> Row:
    return _call("predict", [{"a": 1}, {"a": value}], of="rows")


DATA: dict[str, Row] = {
    "a set in a cell": _cell({1, 2}),
    "bytes in a cell": _cell(b"hi"),
    "a timedelta in a cell": _cell(datetime.timedelta(seconds=5)),
    "a long Decimal in a cell": _cell(decimal.Decimal("0.1000000000000000000001")),
    "a path in a cell": _cell(pathlib.PurePosixPath("a")),
    "a UUID in a cell": _cell(uuid.UUID(int=5)),
    "an object in a cell": _cell(Weather()),
    "infinity in a cell": _cell(float("inf")),
    "a table in a cell": _cell(_frame(b=[1])),
    "half a surrogate pair in a cell": _cell("a\ud800"),
    "a tuple as a row's key": _call("predict", [{("a", "b"): 1}], of="rows"),
    "a period in a table": _call("predict", _frame(a=[pandas.Period("2020")]), of="rows"),
    "a table's column is called False": _call("predict", pandas.DataFrame([[1]], columns=[False]), of="rows"),
    "a table with the columns 1 and '1'": _call("predict", pandas.DataFrame([[1, 2]], columns=[1, "1"]), of="rows"),
    "predict() of text": _call("predict", '[{"a": 1}]', of="rows"),
    "predict() of a generator": lambda w: w.ep("rows").predict(row for row in [{"a": 1}]),
    "predict() of a model of pydantic": _call("predict", [dbllm.Usage()], of="rows"),
    "predict() of a function": _call("predict", of_sync, of="rows"),
    "embed() of a column with a missing value": _call("embed", _frame(a=["x", None])["a"], of="vectors"),
    "embed() of a column of numbers": _call("embed", _frame(a=[1])["a"], of="vectors"),
    "embed() of a dict": _call("embed", {"content": "hi"}, of="vectors"),
    "embed() of messages": _call("embed", [{"role": "user", "content": "hi"}], of="vectors"),
    "embed() of a path": _call("embed", pathlib.PurePosixPath("a"), of="vectors"),
    "embed() of a reply": _with_reply(lambda reply: read_texts(reply)),
    "embed() of half a surrogate pair": _call("embed", ["hi", "a\udc80b"], of="vectors"),
    "chat() of half a surrogate pair": _call("chat", "a\ud800 b"),
    "complete() of half a surrogate pair": _call("complete", "\udfff"),
    "chat() of bytes": _call("chat", b"hi"),
    "chat() of a generator": lambda w: w.ep().chat(message for message in [{"role": "user", "content": "hi"}]),
    "chat() of a reply": _with_reply(lambda reply: chat_messages(reply)),
    "chat() of a list with a reply": _with_reply(lambda reply: chat_messages([reply])),
    "complete() of a reply": _with_reply(lambda reply: prompt_request(reply, None, {})),
    "complete() of bytes": _call("complete", b"hi"),
    "complete() of a function": _call("complete", of_sync),
}

BOTH = {**HOSTS, **CREDENTIALS, **OPTIONS, **NAMES, **ENDPOINTS, **ARGUMENTS, **STREAMS, **ANSWERS}
BOTH |= {**REPLIES, **THINGS, **KEYWORDS, **DATA}


async def _with_async(w: World) -> None:
    with w.raw(w.host, TOKEN):
        pass


async def _for_of_async(w: World) -> None:
    for _ in w.raw(w.host, TOKEN).endpoint("chat").stream_chat("hi"):
        pass


async def _with_of_async(w: World) -> None:
    with w.raw(w.host, TOKEN).endpoint("chat").stream_chat("hi"):
        pass


async def _awaited_stream(w: World) -> None:
    await w.raw(w.host, TOKEN).endpoint("chat").stream_chat("hi")


@contextmanager
def _heard() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said


def _never_awaited(w: World) -> None:
    with _heard() as said:
        w.raw(w.host, TOKEN).endpoint("chat").chat("hi")
        gc.collect()
    raise said[0].category(said[0].message)


def _token_called(w: World) -> None:
    with _heard():
        w.raw("https://w.example.com", fetch_token())


async def _without_loop(w: World) -> None:
    coroutine = w.raw(w.host, TOKEN).endpoint("chat").chat("hi")
    try:
        await asyncio.to_thread(coroutine.send, None)
    finally:
        coroutine.close()


async def _two_readers(w: World) -> None:
    async with w.ep("endless").stream_chat("hi") as stream:
        await anext(stream)
        one = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        try:
            await anext(stream)
        finally:
            one.cancel()
            await asyncio.gather(one, return_exceptions=True)


ASYNC: dict[str, Row] = {
    "with AsyncClient()": _with_async,
    "for over an async stream": _for_of_async,
    "with an async stream": _with_of_async,
    "await of a stream": _awaited_stream,
    "a coroutine is never awaited": _never_awaited,
    "token= is a coroutine": _token_called,
    "AsyncClient without an event loop": _without_loop,
    "close() of AsyncClient": _attribute("close"),
    "two tasks read one stream": _two_readers,
}


async def _async_with(w: World) -> None:
    async with w.raw(w.host, TOKEN):
        pass


async def _async_for(w: World) -> None:
    async for _ in w.raw(w.host, TOKEN).endpoint("chat").stream_chat("hi"):
        pass


async def _async_with_stream(w: World) -> None:
    async with w.raw(w.host, TOKEN).endpoint("chat").stream_chat("hi"):
        pass


async def _awaited_sync_stream(w: World) -> None:
    await w.raw(w.host, TOKEN).endpoint("chat").stream_chat("hi")


async def _awaited_reply(w: World) -> None:
    await w.raw(w.host, TOKEN).endpoint("chat").chat("hi")


PLAIN: dict[str, Row] = {
    "an async token function in Client": lambda w: _tried(w, fetch_token),
    "async with Client()": _async_with,
    "async for over a plain stream": _async_for,
    "async with a plain stream": _async_with_stream,
    "await of a plain stream": _awaited_sync_stream,
    "await of a plain call": _awaited_reply,
    "aclose() of Client": _attribute("aclose"),
    "an async transform in Client": lambda w: w.ep(transform_input=shout).complete("hi"),
}


def rows(is_async: bool) -> dict[str, Row]:
    """The rows of one mode."""
    return {**BOTH, **(ASYNC if is_async else PLAIN)}


async def text_of(row: Row, w: World) -> str:
    """What a mistake is answered with: the class of the error and its text."""
    try:
        made = row(w)
        if hasattr(made, "__await__"):
            await made
    except Exception as error:
        for name in os.environ:
            if name.startswith("DATABRICKS_"):
                w.patch.delenv(name)
        return f"{type(error).__name__}: {error}"
    return "NOTHING"
