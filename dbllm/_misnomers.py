"""What users of other libraries type, and dbllm's name for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast

from ._lazy import WholeImport

F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K", bound=type)
S = TypeVar("S", bound="NamesOurs")

_TOKEN, _HOST, _RETRY = "token=", "host=, the workspace without a path", "retry=Retry(attempts=…)"
_ENDPOINT, _CALL = "client.endpoint(NAME)", "client.endpoint(NAME, params={…}), or the call"
KEYWORDS = {
    **dict.fromkeys(("api_key", "access_token", "api_token", "bearer_token", "azure_ad_token", "password"), _TOKEN),
    **dict.fromkeys(
        ("base_url", "api_base", "url", "workspace_url", "workspace", "server_hostname", "hostname"), _HOST
    ),
    **dict.fromkeys(("max_retries", "retries", "max_attempts", "num_retries"), _RETRY),
    **dict.fromkeys(("request_timeout", "http_timeout_seconds", "timeout_seconds"), "timeout= (seconds)"),
    **dict.fromkeys(("default_headers", "extra_headers"), "headers="),
    **dict.fromkeys(("model", "model_name", "endpoint", "endpoint_name", "deployment", "deployment_name"), _ENDPOINT),
    **dict.fromkeys(("temperature", "max_tokens", "top_p", "stop", "model_kwargs", "extra_params"), _CALL),
    **dict.fromkeys(("proxies", "https_proxy"), 'proxy="http://…"'),
    **dict.fromkeys(("verify_ssl", "ssl_verify", "ssl_context"), "verify="),
    **dict.fromkeys(("organization", "project", "api_version"), "a workspace has none, so leave it out"),
    **dict.fromkeys(("default_query", "extra_query"), "client.request(…, params=…)"),
    **dict.fromkeys(("max_concurrency", "pool_size"), "max_connections="),
    **dict.fromkeys(("config_profile", "databricks_profile"), "profile="),
    **dict.fromkeys(("fallbacks",), "fallback="),
}
"""Keywords of other libraries' clients: dbllm's."""

_INVOKE = "chat(messages), respond(input), complete(prompt), embed(texts) or predict(…)"
_MANAGE = "client.endpoints.{}(NAME)"
CLIENT_NAMES = {
    **dict.fromkeys(("chat", "ChatCompletion", "messages"), "client.endpoint(NAME).chat(messages)"),
    **dict.fromkeys(("completions", "complete", "Completion", "generate"), "client.endpoint(NAME).complete(prompt)"),
    **dict.fromkeys(("embeddings", "embed", "Embedding"), "client.endpoint(NAME).embed(texts)"),
    **dict.fromkeys(("responses", "respond"), "client.endpoint(NAME).respond(input)"),
    "stream_chat": "client.endpoint(NAME).stream_chat(messages)",
    **dict.fromkeys(("predict", "predict_stream"), "client.endpoint(NAME).predict(…), or dbllm.deployments"),
    **dict.fromkeys(("invoke", "query", "ask"), f"client.endpoint(NAME), and of it {_INVOKE}"),
    **dict.fromkeys(("models", "serving_endpoints", "list_endpoints"), "client.endpoints, such as .list()"),
    "create_endpoint": "client.endpoints.create(NAME, config)",
    **dict.fromkeys(("apps", "agents"), "client.agent(NAME)"),
    **dict.fromkeys(("api_client", "get", "post", "clusters", "jobs", "workspace"), 'client.request("GET", "/api/…")'),
    **dict.fromkeys(("base_url", "url"), "client.host"),
    **dict.fromkeys(("api_key", "token"), "client.config, which says where the token is from and does not show it"),
    **dict.fromkeys(("timeout", "max_retries", "copy"), "client.with_options(timeout=…, retry=…)"),
    "with_raw_response": "reply.raw, which every reply has",
}
"""Attributes of other libraries' clients: dbllm's."""

ENDPOINT_NAMES = {
    **dict.fromkeys(("invoke", "ainvoke", "query", "create", "ask", "call", "run", "acomplete", "achat"), _INVOKE),
    **dict.fromkeys(
        ("stream", "astream", "stream_generate"), "stream_chat(…), stream_complete(…) or stream_respond(…)"
    ),
    **dict.fromkeys(("embeddings", "embed_query", "embed_documents", "aembed", "encode"), "embed(texts)"),
    **dict.fromkeys(("completions", "generate_text"), "complete(prompt)"),
    "responses": "respond(input)",
    **dict.fromkeys(("batch", "abatch", "map"), "dbllm.bulk"),
    **{verb: _MANAGE.format(verb) for verb in ("get", "delete", "logs", "permissions", "update_config")},
    **dict.fromkeys(("status", "state", "config", "task"), _MANAGE.format("get")),
}
"""Attributes of other libraries' models and endpoints: dbllm's."""

STREAM_NAMES = dict.fromkeys(
    ("choices", "message", "content", "response", "parsed", "get_final_completion", "get_final_response", "result"),
    "final(), which is the whole reply",
) | dict.fromkeys(
    ("text_stream", "deltas", "iter_text", "aiter_text", "output_text"), "chunk.text of each chunk, or text"
)
"""Attributes of other libraries' streams: dbllm's."""

REPLY_NAMES = {
    **dict.fromkeys(("content", "output_text", "completion", "response", "result", "answer", "get_text"), "text"),
    **dict.fromkeys(("headers", "http_response", "status_code"), "raw, with status, headers and body"),
    **dict.fromkeys(("to_dict", "dict_", "get"), "model_dump()"),
    **dict.fromkeys(("embeddings", "embedding"), "vectors"),
    **dict.fromkeys(("tool_calls", "role"), "message, which has it"),
    "_request_id": "request_id",
}
"""Attributes of other libraries' replies: dbllm's."""

SUBMODULES = frozenset(
    {"bulk", "dbutils", "deployments", "errors", "langchain", "local", "otel", "serve", "spark", "testing"}
)
MODULE_NAMES = {
    **dict.fromkeys(("OpenAI", "WorkspaceClient"), "dbllm.Client"),
    **dict.fromkeys(("AsyncOpenAI",), "dbllm.AsyncClient"),
    **{name: f"dbllm.langchain.{name}" for name in ("ChatDatabricks", "Databricks", "DatabricksEmbeddings")},
    "get_deploy_client": "dbllm.deployments.get_deploy_client",
    **dict.fromkeys(("completion", "chat", "embedding", "complete", "embed"), "dbllm.Client, and its endpoint(NAME)"),
    "RetryPolicy": "dbllm.Retry",
    **dict.fromkeys(("Workspace", "LocalWorkspace"), "dbllm.local.Workspace"),
    **{name: f"`import dbllm.{name}` first" for name in SUBMODULES},
}
"""What others export, or dbllm elsewhere."""


def suggestion(name: str, instead: Mapping[str, str], known: Iterable[str]) -> str:
    """What to use in place of an unknown name; "" where nobody can tell."""
    if found := instead.get(name):
        return found if found.startswith("a workspace") else f"use {found}"
    with WholeImport():
        from difflib import get_close_matches  # here: rarely wanted, and slow to import

    spelled = {each.lower(): each for each in sorted(known)}
    near = get_close_matches(name.lower(), spelled, 1, 0.75)
    return f"did you mean {spelled[near[0]]}?" if near else ""


def unknown_keyword(owner: str, name: str, known: Iterable[str]) -> TypeError:
    """The error for a keyword argument that `owner` does not have."""
    names = [each for each in known if each != "self"]
    hint = suggestion(name, {key: told for key, told in KEYWORDS.items() if told != f"{name}="}, names)
    hint = hint.replace(_RETRY, "attempts=, the first attempt included") if owner == "Retry" else hint
    what = f"{owner} has no argument {name}=: {hint or 'it takes ' + ', '.join(f'{each}=' for each in names)}"
    return TypeError(what if what.endswith("?") else f"{what}.")


def explain_keywords(function: F) -> F:
    """Make a function answer a keyword that it does not have with the one that was probably meant."""
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    names, most = frozenset(known), code.co_argcount

    @wraps(function)
    def explained(*args: Any, **options: Any) -> Any:
        try:
            if options.keys() <= names and len(args) <= most:
                return function(*args, **options)
            owner, unknown = _name_of(explained), next(iter(options.keys() - names), None)
        finally:
            del args, options  # so that no traceback with local variables shows a credential
        if unknown is not None:
            raise unknown_keyword(owner, unknown, known)
        raise TypeError(
            f"{owner} takes {' and '.join(known[1:most])} by their places, and everything else by its name, such as "
            f"{known[most]}=."
        )

    return cast("F", explained)


def explain_fields(kind: K) -> K:
    """`explain_keywords` for the fields of a dataclass."""
    made: Any = kind
    made.__init__ = explain_keywords(made.__init__)
    return kind


def _name_of(function: Callable[..., Any]) -> str:
    """A function's name, as a message says it: a class stands for its `__init__`."""
    name = function.__qualname__.removesuffix(".__init__")
    return name if name[:1].isupper() and "." not in name else f"{name}()"


def missing_attribute(owner: str, name: str, instead: Mapping[str, str], known: Iterable[str]) -> AttributeError:
    """The error for an attribute that `owner` does not have."""
    said = f"{owner} has no attribute {name!r}"
    if name.startswith("_"):  # asked for by other programs
        return AttributeError(said)
    public = [each for each in known if not each.startswith("_")]
    hint = suggestion(name, instead, public) or (f"it has {', '.join(public)}" if 0 < len(public) < 20 else "")
    return AttributeError(f"{said}: {hint}{'' if hint.endswith('?') else '.'}" if hint else f"{said}.")


class NamesOurs:
    """Answers an attribute that it does not have, and what cannot be done with it, with what was probably meant."""

    _names: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:  # a type checker finds the mistake by itself

        def __getattr__(self, name: str) -> Any:
            raise missing_attribute(type(self).__name__, name, self._names, dir(type(self)))

    def __copy__(self: S) -> S:
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds connections and credentials, so it is not pickled: make the client where it "
            "is used, from the environment or a profile."
        )


_ASYNC = "{0} is asynchronous: write `async {1}` in an async function, or use {2} in plain code."
_PLAIN = "{0} is for plain code: write `{1}` without async, or use Async{0} in an async function."


class OnlyAsync:
    """Answers `with` and `for` with what to write instead."""

    if not TYPE_CHECKING:

        def __enter__(self) -> Any:
            raise TypeError(_ASYNC.format(type(self).__name__, "with", _twin(self)))

        def __exit__(self, *_: object) -> None: ...


class OnlyPlain:
    """Answers `async with` with what to write instead."""

    if not TYPE_CHECKING:

        def __aenter__(self) -> Any:
            raise TypeError(_PLAIN.format(type(self).__name__, "with"))

        def __aexit__(self, *_: object) -> None: ...


class OnlyAsyncStream(OnlyAsync):
    """The same of a stream, which is not awaited either."""

    if not TYPE_CHECKING:

        def __iter__(self) -> Any:
            raise TypeError(_ASYNC.format(type(self).__name__, "for", _twin(self)))

        def __await__(self) -> Any:
            raise TypeError(
                "a stream is not awaited: write `async with endpoint.stream_chat(…) as stream`, then `async for chunk "
                "in stream`."
            )


class OnlyPlainStream(OnlyPlain):
    """The same of a stream, which is not awaited either."""

    if not TYPE_CHECKING:

        def __aiter__(self) -> Any:
            raise TypeError(_PLAIN.format(type(self).__name__, "for"))

        def __await__(self) -> Any:
            raise TypeError(
                "a stream of Client is not awaited: write `with endpoint.stream_chat(…) as stream`, then `for chunk in "
                "stream`; or use AsyncClient in an async function."
            )


def _twin(value: object) -> str:
    return "Client's stream" if isinstance(value, OnlyAsyncStream) else type(value).__name__.removeprefix("Async")
