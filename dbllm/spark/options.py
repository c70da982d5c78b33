"""What the functions here take beside their rows: read once, and refused before anything is sent if it cannot work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from dbllm import Client, Hooks, Limits, Retry, Timeout
from dbllm._misnomers import unknown_keyword

from ..bulk import RowMapper
from ..bulk.requests import RowRequest
from .credentials import settings_of


class JobOptions(TypedDict, total=False):
    """What every function here takes, too.

    The limits are those of the whole job: the tasks that run at once share them, and a printed line says how.

    Attributes:
        concurrency: how many calls at once, at the most; default 64. Each task's share goes down when the endpoint
            turns calls away, and up again.
        rpm, tpm: requests and tokens per minute. `tpm` is what input tokens and output tokens (reserved as
            `max_tokens`) may come to, each; a pair names them apart: `tpm=(200_000, 20_000)`.
        limits: instead of these, a `Limits`.
        tasks: how many tasks; the DataFrame is repartitioned into so many. Default: as many as run at once, but at
            least 8 calls for each.
        ledger: a folder that all executors see: what is answered is recorded there, some 200 rows at a time, and never
            paid again by a retry, another action or another run. Or the name of a table: the model is then called at
            once, and the answers are recorded when all are there. Without one each action calls the model anew, and so
            does each attempt of a task that fails (Spark makes four).
        key: columns whose values tell rows apart in the ledger that ask the same. Default: they share a recorded
            answer. A row that asks something else than when it was recorded is called anew in any case.
        retry_errors: call rows again whose recorded result is an error.
        on_error: "row": a row that fails is a row with an `error`. "raise": the first one ends the job. "split": two
            DataFrames come back, the rows with an answer and those without.
        max_error_rate: end the job when more than this share of a task's last 200 rows failed.
        column: the name of the column that is added; default "result".
        params: the model's parameters, for all rows.
        driver_app, cluster_id: instead of an endpoint, a driver proxy app; see `AsyncClient.driver_app`.
        host: of the workspace; default: as in every client.
        credential: where each worker finds its credential: "env:NAME", "profile:NAME" or "secret:scope/key". Default:
            as in every client (environment, profile, Databricks runtime). A credential itself is never taken.
        retry: the policy; default `dbllm.bulk.RETRY`, 8 attempts.
        timeout: of one attempt: seconds, or a `Timeout`.
    """

    concurrency: int
    rpm: float | None
    tpm: float | tuple[float | None, float | None] | None
    limits: Limits | None
    tasks: int | None
    ledger: str | os.PathLike[str] | None
    key: str | Sequence[str] | None
    retry_errors: bool
    on_error: Literal["row", "raise", "split"]
    max_error_rate: float | None
    column: str
    params: Mapping[str, Any] | None
    driver_app: int | str | None
    cluster_id: str | None
    host: str | None
    credential: str | None
    retry: Retry | None
    timeout: float | Timeout | None


def check_options(options: JobOptions) -> None:
    """Refuse what can be no option.

    Raises:
        TypeError, ValueError: an argument that does not exist, or a value that it cannot have. Values that may be
            secret are not repeated.
    """
    known = JobOptions.__annotations__
    for name in options:
        if name not in known:
            raise unknown_keyword("dbllm.spark", name, known)
    if (on_error := options.get("on_error", "row")) not in ("row", "raise", "split"):
        raise ValueError(f'on_error must be "row", "raise" or "split", got {on_error!r}.')
    kinds: dict[str, tuple[Any, str]] = {
        "params": (Mapping, "a mapping"),
        "limits": (Limits, "a dbllm.Limits"),
        "retry": (Retry, "a dbllm.Retry"),
        "retry_errors": (bool, "True or False"),
        "column": (str, "a name (str)"),
        "ledger": ((str, os.PathLike), "a folder, or the name of a table (str)"),
        "cluster_id": (str, "a str"),
    }
    for name, (kind, what) in kinds.items():
        given: Any = options.get(name)
        if (given is not None or name in options.keys() & _NEVER_NONE) and not isinstance(given, kind):
            raise TypeError(f"{name} must be {what}, got {given!r}.")
    if not options.get("column", "result"):
        raise ValueError('column is empty: name the column that is added, or leave it out ("result").')
    if not all(isinstance(name, str) for name in options.get("params") or ()):
        raise TypeError(f"the names in params must be str, got {list(options.get('params') or ())!r}.")
    if own := {"timeout", "retry"} & {*(options.get("params") or ())}:
        raise TypeError(f"params are the model's: {' and '.join(sorted(own))} is an argument beside params=.")
    for name in ("concurrency", "tasks"):
        value: Any = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer, 1 or more, got {value!r}.")
    rate: Any = options.get("max_error_rate")
    if rate is not None and (isinstance(rate, (bool, str)) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1):
        raise ValueError(f"max_error_rate must be a number between 0 and 1, got {rate!r}.")
    if options.get("cluster_id") is not None and options.get("driver_app") is None:
        raise TypeError("cluster_id= says where a driver app runs: it goes with driver_app=.")


_NEVER_NONE = {"column", "retry_errors"}


def names_of(given: Any, argument: str) -> tuple[str, ...]:
    """The columns that an argument names: one (str), or several.

    Raises:
        TypeError: it is no name and no sequence of names.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str)
    if type(given).__name__ in ("Column", "DataFrame"):  # a Column has what makes it look like one
        several = False
    names: tuple[Any, ...] = tuple(given) if several else (given,)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(
            f"{argument} must be the name of a column (str) or several in a list, got {type(wrong[0]).__name__}."
        )
    return names


def job_limits(options: JobOptions) -> Limits:
    """The limits of the whole job."""
    rpm, tpm, limits = options.get("rpm"), options.get("tpm"), options.get("limits")
    if limits is not None:
        if any(options.get(name) is not None for name in ("rpm", "tpm", "concurrency")):
            raise ValueError("limits= says all of it: leave out concurrency=, rpm= and tpm=.")
        return limits
    if isinstance(tpm, (tuple, list)) and len(tpm) != 2:
        raise ValueError(f"tpm must be a number, or a pair (of input tokens, of output tokens), got {tpm!r}.")
    given, made = tpm if isinstance(tpm, (tuple, list)) else (tpm, tpm)
    return Limits(
        requests_per_minute=rpm,
        input_tokens_per_minute=given,
        output_tokens_per_minute=made,
        concurrency=options.get("concurrency", 64),
    )


def mapper_of(
    options: JobOptions,
    verb: str | None,
    endpoint: str | None,
    *,
    prompt: str | None = None,
    response_model: type | None = None,
) -> RowMapper:
    """What calls the model for one row, in whatever process."""
    if (endpoint is None) == (options.get("driver_app") is None):
        raise TypeError('say what is called: the name of an endpoint ("dolly"), or driver_app=, and not both.')
    mapper = RowMapper(
        endpoint,
        driver_app=options.get("driver_app"),
        cluster_id=options.get("cluster_id"),
        verb=verb,
        prompt=prompt,
        params=options.get("params"),
        response_model=response_model,
        retry=options.get("retry"),
        timeout=options.get("timeout"),
        **settings_of(options.get("credential"), options.get("host")),
    )
    check_call(mapper, options.get("host"))
    # The verb is known, so no worker looks the endpoint up: a task whose rows the ledger has sends nothing at all.
    mapper._verbs = ()
    return mapper


class _NotSent(Exception):
    """The call came as far as the network, where it ends."""


def check_call(mapper: RowMapper, host: str | None) -> None:
    """Make one call as far as the network: what no worker could send is said here, and nothing is sent.

    Raises:
        ConfigError: the endpoint's name, the app's port or the host cannot be.
        TypeError, ValueError: the model's parameters or the class of the reply cannot be sent.
    """

    def stop(request: object, send: object) -> None:
        raise _NotSent

    client = Client("https://localhost" if host is None else host, "token", hooks=Hooks(middleware=stop))
    verb = mapper.verb or "complete"
    content: Any = {"inputs": ["text"]} if verb == "predict" else "text"
    flaws: list[Exception] = []
    tasks = _TASKS[verb] if mapper.endpoint is not None else ("app",)
    with client:
        for task in tasks:
            if mapper.endpoint is not None:
                handle: Any = client.endpoint(mapper.endpoint, task=task)
            else:
                handle = client.driver_app(mapper.driver_app or "", mapper.cluster_id or "cluster")
            try:
                mapper.send(handle, RowRequest(verb, content, {}), retry=Retry(attempts=1), timeout=mapper.timeout)
            except _NotSent:
                return
            except (TypeError, ValueError) as error:
                flaws.append(error)
    kind = TypeError if isinstance(flaws[0], TypeError) else ValueError
    raise kind(f"{verb} cannot be called so: {flaws[0]} See params= and the other arguments.") from None


_TASKS = {  # as which a model is called; a parameter that one of them takes may be right
    "complete": ("chat", "completions"),
    "chat": ("chat",),
    "embed": ("embeddings",),
    "predict": ("custom",),
    "respond": ("agent",),
}
