"""The command that calls a model for each row of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbllm.cli import console
from dbllm.cli.models import Param, Tag
from dbllm.cli.options import Command, Host, Profile

if TYPE_CHECKING:
    from dbllm.bulk import Report

USAGE_STATUS = 64
"""The exit status of a wrong option: 2, which other commands have for it, means error rows here."""

EXIT_STATUS = """Exit status:
0 every row is answered;
1 it could not start (configuration, no such endpoint);
2 finished, and some rows are error rows;
64 wrong usage;
65 the input or the journal cannot be used (bad rows, a changed input, damage);
66 the input cannot be read;
73 the output cannot be made there, or another process works on it;
74 the disk takes nothing more;
75 interrupted (Ctrl-C, SIGTERM, a terminal that closes);
76 too many errors (--max-error-rate);
77 the endpoint refuses every row (token, permission, name, verb), and nothing was paid for them.
After 74 to 77 and any crash the same command goes on where it was."""


class _BulkCommand(Command):
    """The command's own rules: --retry-errors may stand alone, and wrong usage has a status of its own."""

    def say_extra(self, message: str) -> str:
        return f"{message}. The output is named by -o FILE; a text with spaces needs quotes."

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, ["--retry-errors=*" if word == "--retry-errors" else word for word in args])
        except Exception as error:  # a UsageError: click's, or of the copy of click in newer versions of typer
            if hasattr(error, "message"):  # and not the end after --help
                error.exit_code = USAGE_STATUS  # type: ignore[attr-defined]
            raise


def read_price(text: str | None) -> tuple[float, float] | None:
    """`IN,OUT` as two numbers.

    Raises:
        typer.BadParameter: it is something else.
    """
    if text is None:
        return None
    try:
        for_input, for_output = (float(word) for word in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not two numbers, such as 0.5,1.5.", param_hint="--price") from None
    if not (0 <= for_input < float("inf") and 0 <= for_output < float("inf")):
        raise typer.BadParameter(f"{text!r} has a number that is no price.", param_hint="--price")
    return for_input, for_output


def read_template(text: str | None) -> str | None:
    """A prompt, or that of a file (@FILE).

    Raises:
        ValueError: the file cannot be read.
    """
    if text is None or not text.startswith("@"):
        return text
    try:
        return console.decode_text(Path(text[1:]).read_bytes(), text[1:]).removesuffix("\n")
    except OSError as error:
        raise ValueError(f"{text[1:] or '@'} cannot be read: {error.strerror}.") from None


def bulk(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help=".jsonl, .csv, .tsv (also .gz, .zst) or .parquet; - reads JSONL from stdin."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".jsonl (also .gz, .zst) or .parquet.", show_default=False)
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="A serving endpoint or model service.")] = None,
    driver_app: Annotated[int | None, typer.Option("--app", metavar="PORT", help="A driver app instead.")] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster-id", help="The driver app's cluster.", show_default="DATABRICKS_CLUSTER_ID")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help='A template with columns in braces, "Summarise: {text}", or @FILE. Without one rows have prompt, '
            "messages or input, or the shape of OpenAI's Batch."
        ),
    ] = None,
    verb: Annotated[
        str | None,
        typer.Option(help="complete, chat, embed, predict or respond.", show_default="what the endpoint speaks"),
    ] = None,
    param: Param = None,
    tag: Tag = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count rows, tokens and cost; send nothing.")] = False,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Calls at once, in all.", show_default="what serves best")
    ] = None,
    rpm: Annotated[float | None, typer.Option(help="The most requests a minute.")] = None,
    rph: Annotated[float | None, typer.Option(help="The most requests an hour.")] = None,
    itpm: Annotated[float | None, typer.Option(help="The most input tokens a minute.")] = None,
    otpm: Annotated[
        float | None, typer.Option(help="The most output tokens a minute (max_tokens is reserved).")
    ] = None,
    attempts: Annotated[int | None, typer.Option(min=1, help="How often a row is tried.", show_default="8")] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds of one attempt.", show_default="300")
    ] = None,
    retry_errors: Annotated[
        str | None,
        typer.Option(
            "--retry-errors", metavar="[=CLASS,...]", help="Ask error rows of earlier runs again; only those classes."
        ),
    ] = None,
    retry_ambiguous: Annotated[
        bool, typer.Option("--retry-ambiguous", help="Ask again what may have been paid although no answer came.")
    ] = False,
    max_error_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Stop if more of the last 200 rows failed, such as 0.2.")
    ] = None,
    keep_bad_rows: Annotated[
        bool, typer.Option("--keep-bad-rows", help="Rows that cannot be sent become error rows.")
    ] = False,
    no_dedupe: Annotated[bool, typer.Option("--no-dedupe", help="Ask equal rows each.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although the input or the options are other ones.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew; forget an earlier job.")] = False,
    input_format: Annotated[
        str | None, typer.Option(help="jsonl, csv, tsv or parquet.", show_default="by the name")
    ] = None,
    journal: Annotated[Path | None, typer.Option(help="Where the journal lies.", show_default="OUTPUT.part")] = None,
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="The price of a million input and output tokens.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page about the job here.", metavar="HTML")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    host: Host = None,
    profile: Profile = None,
) -> None:
    """Ask a model for each row of a file.

    It writes a file with the answers:

    dbllm bulk prompts.jsonl -o answers.jsonl --endpoint dolly --prompt "Summarise: {text}"

    Each answer is kept when it comes. After Ctrl-C, a crash or a full disk the same command goes on, and at most the
    calls that were in flight are paid again.
    """
    from dbllm import DbllmError
    from dbllm.bulk import BulkError

    try:
        costs = read_price(price)
        template = read_template(prompt)
        about: dict[str, Any] = {
            "endpoint": endpoint,
            "driver_app": driver_app,
            "host": host,
            "profile": profile,
            "prompt": template,
            "verb": verb,
            "params": dict(param or ()),
            "dedupe": not no_dedupe,
            "input_format": input_format,
            "price": costs,
        }
        if dry_run:
            _dry_run(source, about)
            return
        if output is None:
            raise typer.BadParameter("it is missing: -o answers.jsonl.", param_hint="--output")
        if (endpoint is None) == (driver_app is None):
            raise typer.BadParameter("name one of --endpoint and --app.", param_hint="--endpoint")
        if driver_app is not None and tag:
            raise typer.BadParameter("a driver app takes no tags.", param_hint="--tag")
        options = {
            **about,
            "cluster_id": cluster,
            "tags": dict(tag or ()),
            "concurrency": concurrency,
            "limits": _limits(rpm, rph, itpm, otpm),
            "retry": _retry(attempts),
            "timeout": timeout,
            "retry_errors": _classes(retry_errors),
            "retry_ambiguous": retry_ambiguous,
            "max_error_rate": max_error_rate,
            "keep_bad_rows": keep_bad_rows,
            "accept_changes": accept_changes,
            "overwrite": overwrite,
            "journal": journal,
            "report": report,
        }
        ended = _call_bulk(source, output, options, quiet=quiet)
    except typer.BadParameter as error:
        error.exit_code = USAGE_STATUS
        raise
    except BulkError as error:
        console.print_error(error)
        if as_json and error.report is not None:
            console.write_json(error.report.as_dict(), indent=None)
        raise typer.Exit(error.exit_code) from error
    except DbllmError as error:
        console.print_error(error)
        raise typer.Exit(1) from error
    except (TypeError, ValueError) as error:
        console.print_error(error)
        raise typer.Exit(USAGE_STATUS) from error
    except KeyboardInterrupt:  # before the job takes signals
        console.print_error("interrupted. The same again goes on from here.")
        raise typer.Exit(75) from None
    if as_json:
        console.write_json(ended.as_dict(), indent=None)
    else:
        console.write(str(ended))
    if not ended.ok:
        raise typer.Exit(2)


def _call_bulk(source: str, output: Path, options: dict[str, Any], *, quiet: bool) -> Report:
    from dbllm.bulk import run_sync

    return run_sync(source, output, progress=not quiet, **options)


def _dry_run(source: str, options: dict[str, Any]) -> None:
    from dbllm.bulk import estimate

    found = estimate(source, **options)
    console.write(str(found))
    if found.bad:
        raise typer.Exit(65)


def _limits(rpm: float | None, rph: float | None, itpm: float | None, otpm: float | None) -> Any:
    if rpm is rph is itpm is otpm is None:
        return None
    from dbllm import Limits

    return Limits(
        requests_per_minute=rpm, requests_per_hour=rph, input_tokens_per_minute=itpm, output_tokens_per_minute=otpm
    )


def _retry(attempts: int | None) -> Any:
    if attempts is None:
        return None
    from dataclasses import replace

    from dbllm.bulk import RETRY

    return replace(RETRY, attempts=attempts)


def _classes(retry_errors: str | None) -> bool | set[str]:
    if retry_errors is None:
        return False
    return True if retry_errors in ("*", "") else {word.strip() for word in retry_errors.split(",") if word.strip()}


def add_bulk(app: typer.Typer) -> None:
    """Make it a command of `app`."""
    app.command("bulk", cls=_BulkCommand, epilog=EXIT_STATUS.replace("\n", "\n\n"))(bulk)
