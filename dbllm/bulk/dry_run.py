"""`estimate`: what a job would do, without sending a row."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbllm import DbllmError
from dbllm._misnomers import explain_keywords

from .display import Show
from .entry import Input, set_source
from .inputs import Source, import_pyarrow, spool
from .journal import Disk
from .manifest import Settings
from .plan import Summary, make_plan
from .report import Price, money, plural
from .requests import most_tokens
from .row_mapper import RowMapper

BYTES_A_TOKEN = 3.6  # of English text
LOOKUP_SECONDS = 10.0  # the most that an estimate waits for what the workspace says of an endpoint
_UNBOUND = {  # by the first word of a task
    "agent": "an agent does not keep to max_tokens",
    "responses": "an agent does not keep to max_tokens",
    "app": "a driver app need not keep to max_tokens",
    "custom": "a custom model need not keep to max_tokens",
}


@dataclass
class Estimate:
    """What a job would do; nothing was sent.

    Attributes:
        rows, distinct, bad: rows of the input; those that ask something of their own; those that cannot be sent.
        problems: (line, what is wrong) of the first bad rows.
        input_tokens: estimated by the bytes of what is asked, 3.6 a token.
        output_tokens: at most so many, by max_tokens; None where a row has none, or where nobody keeps to it (agents,
            driver apps, custom models).
        failure: why the endpoint could not be looked up, or "".
        cost: at most so much, if a price was given and output_tokens is known.
    """

    rows: int = 0
    distinct: int = 0
    bad: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int | None = None
    cost: float | None = None
    input_cost: float | None = None
    unbound: str = ""  # why max_tokens does not bound the output
    proviso: str = ""  # what is not known of the endpoint
    failure: str = ""  # why the endpoint could not be looked up

    def __str__(self) -> str:
        lines = [f"{plural(self.rows, 'row', 'rows')}, {self.distinct:,} distinct, {self.bad:,} bad"]
        lines += [f"  line {line}: {problem}" for line, problem in self.problems]
        if self.bad > len(self.problems):
            lines.append(f"  … and {self.bad - len(self.problems):,} more")
        tokens = plural(self.input_tokens, "input token", "input tokens")
        lines.append(f"about {tokens} (the bytes of what is asked / {BYTES_A_TOKEN})")
        if self.output_tokens is None:
            lines.append(f"output tokens unknown: {self.unbound or 'rows without max_tokens'}")
        else:
            how = "embeddings have none" if self.output_tokens == 0 and self.distinct else "the sum of max_tokens"
            tokens = plural(self.output_tokens, "output token", "output tokens")
            lines.append(f"at most {tokens} ({how}{self.proviso})")
        if self.cost is not None:
            lines.append(f"cost at most about {money(self.cost)}")
        elif self.input_cost is not None:
            lines.append(f"cost about {money(self.input_cost)} for the input, and what the output costs")
        if self.failure:
            lines.append(f"the endpoint could not be looked up: {self.failure}")
        return "\n".join(lines)


@explain_keywords
def estimate(
    source: Input,
    *,
    endpoint: Any = None,
    driver_app: int | str | None = None,
    host: str | None = None,
    profile: str | None = None,
    prompt: str | None = None,
    verb: str | None = None,
    params: Mapping[str, Any] | None = None,
    input_format: str | None = None,
    dedupe: bool = True,
    price: tuple[float, float] | None = None,
    progress: bool | Show | None = None,
) -> Estimate:
    """What a job would do, without sending a row: rows, distinct rows, bad rows, tokens and cost.

    An endpoint that is named is looked up, since agents and custom models do not keep to `max_tokens`. Where that
    fails, and where none is named, the estimate says so.

    Args:
        source, endpoint, driver_app, host, profile, prompt, verb, params, input_format, dedupe, price, progress: as for
            `run`.

    Raises:
        BulkError: the input cannot be read.
    """
    settings = Settings(output=Path())
    set_source(settings, source, input_format)
    if settings.input_format == "parquet":
        import_pyarrow()
    mapper = RowMapper("none", verb=verb, prompt=prompt, params=params)
    task, failure = "app" if driver_app is not None else None, ""
    if endpoint is not None:
        try:
            asked = _lookup_mapper(endpoint, host, profile)
            task, mapper._verbs = asked.look_up(), asked._verbs  # so that a row asks what it would in the job
        except DbllmError as error:
            failure = str(error)
        except TypeError:  # a handle of an AsyncClient, which cannot be asked in plain code
            pass
    with tempfile.TemporaryDirectory(prefix="dbllm-") as folder:
        path = settings.path
        if path is None:
            path = Path(folder, "input")
            spool(settings.rows, path, Disk())
        rows = Source(path, settings.name, settings.input_format)
        rows.fingerprint()
        plan = make_plan(rows, mapper.request, Path(folder, "plan"), Disk(), dedupe=dedupe)
        plan.close()
    most = most_tokens(mapper.params)
    made = _estimated(plan.summary, most, Price.of(price), task)
    made.failure = failure
    return made


def _lookup_mapper(endpoint: Any, host: str | None, profile: str | None) -> RowMapper:
    """A mapper that can look an endpoint up."""
    if isinstance(endpoint, str):
        return RowMapper(endpoint, host=host, profile=profile, timeout=LOOKUP_SECONDS)
    return endpoint if isinstance(endpoint, RowMapper) else RowMapper(handle=endpoint)


def _estimated(summary: Summary, most: int | None, price: Price | None, task: str | None) -> Estimate:
    good = summary.rows - summary.bad
    share = summary.distinct / good if good else 0.0
    input_tokens = round(summary.input_bytes * share / BYTES_A_TOKEN)
    own, rows = summary.max_tokens
    output: int | None = None
    unbound = "agents and custom models do not keep to max_tokens" if summary.unbound else ""
    unbound = _UNBOUND.get(str(task).split("/")[0], unbound)
    if unbound:
        most = None
    elif summary.silent == good:
        output = 0
    elif rows == good - summary.silent:
        output = round(own * share)
    elif most is not None:
        output = round((own + (good - rows - summary.silent) * most) * share)
    made = Estimate(summary.rows, summary.distinct, summary.bad, summary.problems, input_tokens, output)
    made.unbound, made.proviso = unbound, "" if task else "; an agent may make more"
    if price is not None:
        made.input_cost = price.cost(input_tokens, 0)
        made.cost = None if output is None else price.cost(input_tokens, output)
    return made
