"""What users see: the names, both modes side by side, and that all of it is documented and typed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import inspect
import pickle
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import dbllm

TWINS: list[tuple[Any, Any]] = [
    (dbllm.AsyncClient, dbllm.Client),
    (dbllm.AsyncEndpoint, dbllm.Endpoint),
    (dbllm.AsyncDriverApp, dbllm.DriverApp),
    (dbllm.AsyncStream, dbllm.Stream),
    (dbllm.AsyncAgent, dbllm.Agent),
    (dbllm.AsyncRun, dbllm.Run),
    (dbllm.AsyncEndpoints, dbllm.Endpoints),
    (dbllm.AsyncSecrets, dbllm.Secrets),
    (dbllm.AsyncModelServices, dbllm.ModelServices),
    (dbllm.AsyncModelProviders, dbllm.ModelProviders),
]
BY_NAME = pytest.mark.parametrize(("twin", "plain"), TWINS, ids=lambda kind: kind.__name__)
COLOURED = {"aclose": "close"}


def public(kind: type) -> dict[str, Any]:
    """The public attributes that dbllm itself gives a class, with those of its parents."""
    found: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        if parent.__module__.startswith("dbllm"):
            found.update({name: value for name, value in vars(parent).items() if not name.startswith("_")})
    return found


def functions(kind: type) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name, value in public(kind).items():
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(value) and value.__module__.startswith("dbllm"):  # pydantic writes some of its own
            found[name] = value
    return found


def test_all_names_the_public_names_exactly(script: Callable[..., str]) -> None:
    for load in ("", "from dbllm import *"):  # before they are loaded, where they come when first used, and after
        said = script(
            f"import dbllm, types\n{load}\nprint(*(n for n in dir(dbllm) if n[0] != '_' "
            "and not isinstance(getattr(dbllm, n), types.ModuleType)))"
        )
        assert sorted(said.split()) == dbllm.__all__
    assert dbllm.__all__ == sorted(set(dbllm.__all__))


def test_the_version_is_looked_up_when_it_is_asked_for(script: Callable[..., str]) -> None:
    said = script(
        "import sys, dbllm\nbefore = 'importlib.metadata' in sys.modules\n"
        "print(before, dbllm.__version__, 'pydantic' in sys.modules)\nfrom dbllm import __version__"
    )
    before, version, heavy = said.split()
    assert (before, heavy) == ("False", "False")
    assert version == dbllm.__version__ == importlib.metadata.version("dbllm")


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Clint"):
        dbllm.Clint  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        exec("from dbllm import Clint")  # noqa: S102


def test_the_names_that_users_rely_on_are_there() -> None:
    needed = """
    AsyncClient Client Retry Timeout DbllmError ConfigError APIError APIConnectionError APITimeoutError
    APIStatusError BadRequestError AuthenticationError PermissionDeniedError NotFoundError ConflictError
    RequestTooLargeError RateLimitError InternalServerError APIResponseError StreamInterruptedError
    ChatCompletion ChatCompletionChunk Completion CompletionChunk Embeddings Predictions Message Usage
""".split()  # noqa: SIM905
    assert set(needed) <= set(dbllm.__all__)


def test_a_star_import_gives_them_all() -> None:
    names: dict[str, object] = {}
    exec("from dbllm import *", names)  # noqa: S102
    assert set(dbllm.__all__) <= names.keys()


@BY_NAME
def test_both_modes_have_the_same_names(twin: type, plain: type) -> None:
    assert {COLOURED.get(name, name) for name in public(twin)} == set(public(plain))


def shape(function: Callable[..., Any]) -> list[tuple[str, Any, Any, str]]:
    """Names, kinds, defaults and annotations of the parameters, without the self."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return [(item.name, item.kind, item.default, str(item.annotation)) for item in parameters]


@BY_NAME
def test_both_modes_take_the_same_arguments(twin: type, plain: type) -> None:
    of_plain = functions(plain)
    for name, function in functions(twin).items():
        assert shape(of_plain[COLOURED.get(name, name)]) == shape(function), name


def test_both_clients_are_made_in_the_same_way() -> None:
    assert shape(dbllm.AsyncClient.__init__) == shape(dbllm.Client.__init__)


@BY_NAME
def test_what_waits_is_async_and_its_twin_is_not(twin: type, plain: type) -> None:
    for name in ("__aenter__", "__aexit__", "__anext__", "aclose"):
        if hasattr(twin, name):
            sync = COLOURED.get(name, name.replace("__a", "__"))
            assert inspect.iscoroutinefunction(getattr(twin, name))
            assert not inspect.iscoroutinefunction(inspect.unwrap(getattr(plain, sync), stop=lambda _: True))
    for name, function in functions(plain).items():
        assert not hasattr(function, "__wrapped__") or function.__code__.co_flags & inspect.CO_COROUTINE == 0, name
    waiting = {name for name, function in functions(twin).items() if inspect.iscoroutinefunction(function)}
    assert not waiting & {"endpoint", "driver_app", "with_options", "stream_complete", "stream_chat", "host", "text"}
    assert waiting


PUBLIC = {name: getattr(dbllm, name) for name in dbllm.__all__}
METHODS = {
    f"{name}.{method}": function
    for name, value in PUBLIC.items()
    if inspect.isclass(value)
    for method, function in functions(value).items()
}


def test_every_public_class_is_documented() -> None:
    for name, value in PUBLIC.items():
        documented = inspect.getdoc(value) if not inspect.isclass(value) else vars(value).get("__doc__")
        assert documented, name
        assert documented.strip().splitlines()[0].rstrip().endswith((".", ":")) or ": " in documented, name


@pytest.mark.parametrize("name", METHODS)
def test_every_public_function_is_documented(name: str) -> None:
    function = METHODS[name]
    assert function.__doc__, name
    assert len(function.__doc__.strip()) > 10, name


@pytest.mark.parametrize("name", METHODS)
def test_every_public_function_is_annotated_in_full(name: str) -> None:
    function = inspect.unwrap(METHODS[name])
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters[1:]:
        assert parameter.annotation is not parameter.empty, f"{name}({parameter.name})"
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty, name


@pytest.mark.parametrize("name", METHODS)
def test_the_annotations_can_be_evaluated(name: str) -> None:
    function = inspect.unwrap(METHODS[name])
    assert "return" in typing.get_type_hints(function, localns=PUBLIC)  # some are loaded when they are used


@pytest.mark.parametrize("name", METHODS)
def test_keyword_arguments_that_a_verb_documents_are_its_own(name: str) -> None:
    function = METHODS[name]
    text = inspect.cleandoc(function.__doc__ or "")
    if "Args:\n" not in text:
        return
    block = text.split("Args:\n")[1].split("\n\n")[0]
    lines = [line[4:] for line in block.splitlines() if line.startswith("    ") and not line.startswith("     ")]
    documented = {part.strip().lstrip("*") for line in lines for part in line.split(":")[0].split(",")}
    assert documented <= set(inspect.signature(function).parameters), documented


def test_the_arguments_of_the_client_are_all_documented() -> None:
    said = inspect.getdoc(dbllm.AsyncClient) or ""
    for parameter in list(inspect.signature(dbllm.AsyncClient.__init__).parameters)[1:]:
        assert f"{parameter}:" in said, parameter


@pytest.mark.parametrize("kind", [dbllm.Retry, dbllm.Timeout])
def test_every_field_of_a_policy_is_documented(kind: Any) -> None:
    for field in dataclasses.fields(kind):
        assert f"{field.name}:" in (inspect.getdoc(kind) or ""), field.name


def test_values_that_users_hold_have_a_place_for_nothing_secret() -> None:
    for value in PUBLIC.values():
        if inspect.isclass(value) and issubclass(value, BaseModel):
            assert not {"token", "authorization"} & set(value.model_fields)


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(dbllm.__file__).parent / "py.typed").is_file()


def test_each_exported_class_can_be_inspected() -> None:
    for name in dbllm.__all__:
        kind = getattr(dbllm, name)
        assert inspect.getsource(kind)
        typing.get_type_hints(kind)


def exported_values() -> list[Any]:
    """One value of each exported class that may be pickled."""
    made: list[Any] = [dbllm.Retry(attempts=2), dbllm.Timeout(total=5), dbllm.Raw(200, {"a": "b"}, b"c")]
    made.append(dbllm.Attempt("GET", "/x", 1, 0.5, 200, "id", dbllm.RateLimitError("slow", retry_after=2)))
    request = dbllm.RequestInfo("chat", "e", "https://h", body={"messages": []})
    made += [dbllm.StreamEvent(request, 1, 0.5), dbllm.TokenRefresh(0.1, 3600.0)]
    made += [request, dbllm.ResponseInfo(request, "error", 0.5, error=dbllm.RateLimitError("slow"))]
    counts = dbllm.EndpointStats(calls=2, failures={"throttled": 1})
    made += [counts, dbllm.Stats(calls=2, waits=1, endpoints={"/x": counts})]
    for name in dbllm.__all__:
        kind = getattr(dbllm, name)
        if not inspect.isclass(kind):
            continue
        if issubclass(kind, dbllm.DbllmError):
            made.append(kind("what happened"))
        elif issubclass(kind, BaseModel):
            answer = {
                "choices": [{"index": 0, "message": {"content": "a"}, "text": "a"}],
                "data": [],
                "type": "message",
            }
            answer |= {
                "predictions": [1],
                "prompt": "p",
                "name": "n",
                "key": "k",
                "principal": "p",
                "permission": "READ",
            }
            made.append(kind.model_validate(answer))
    return made


def test_each_exported_class_pickles_into_a_fresh_interpreter_and_back_by_its_public_path(
    script: Callable[..., str], tmp_path: Path
) -> None:
    values = exported_values()
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(pickle.dumps(values))
    script(
        "import pickle, sys\nfrom pathlib import Path\nvalues = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "Path(sys.argv[2]).write_bytes(pickle.dumps(values))",
        str(there),
        str(back),
    )
    for value, again in zip(values, pickle.loads(back.read_bytes()), strict=True):
        assert type(again) is type(value)
        by_identity = (dbllm.DbllmError, dbllm.Attempt, dbllm.RequestInfo, dbllm.ResponseInfo, dbllm.StreamEvent)
        if not isinstance(value, by_identity):
            assert again == value
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            data = pickle.dumps(value, protocol)
            assert b"dbllm._" not in data, value
            assert type(pickle.loads(data)) is type(value)


OLD_PATHS = """
    answers apps auth client commands config console control demo doctor embeddings endpoint_commands endpoints engine
    external fast http1 io judge network oauth outside plain pool profile prompt retry schema secret_commands serving
    sockets sources sse stream structured sync target together transport wire local.answers local.gate local.invoke
    local.problems local.web langchain.chat langchain.side_by_side
""".split()  # noqa: SIM905


def test_the_paths_of_old_modules_fail_with_an_import_error() -> None:
    for name in OLD_PATHS:
        with pytest.raises(ImportError):
            importlib.import_module(f"dbllm.{name}")


def test_the_public_modules_are_where_they_were() -> None:
    needs = {"langchain": "langchain_core", "serve": "starlette"}  # packages of extras
    for name in ("errors", "deployments", "dbutils", "testing", "langchain", "local", "serve"):
        if name in needs and importlib.util.find_spec(needs[name]) is None:
            continue
        assert importlib.import_module(f"dbllm.{name}").__name__ == f"dbllm.{name}"
