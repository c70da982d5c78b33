"""What the commands share: their options, and the client that is made from them."""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from dbllm.cli.console import note, print_error, printable

if TYPE_CHECKING:
    from dbllm import Client

Host = Annotated[
    str | None,
    typer.Option("--host", help="The workspace's address.", show_default="DATABRICKS_HOST, then the profile's"),
]
Profile = Annotated[str | None, typer.Option("--profile", help="A profile of ~/.databrickscfg.")]
Seconds = Annotated[float | None, typer.Option("--timeout", help="Seconds for the whole call.", show_default="300")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show each call and each retry on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the workspace sends it.")]


class Pair(NamedTuple):
    """`name=value`, as it is written on a command line."""

    name: str
    value: Any


def read_pair(text: str) -> Pair:
    """`name=value` as a pair.

    Raises:
        typer.BadParameter: the name or the sign is missing.
    """
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise typer.BadParameter(f"{text!r} is not of the form name=value.")
    return Pair(name, value)


def pairs_option(help_text: str, metavar: str = "K=V", parser: Callable[[str], Pair] = read_pair) -> Any:
    """An option that may be repeated, of the form name=value."""
    return typer.Option(help=help_text, metavar=metavar, parser=parser)


class Command(TyperCommand):
    """A command whose help has no type of Python's, and whose usage errors say what to write instead."""

    def say_extra(self, message: str) -> str:
        """What to say of words that no argument takes."""
        texts = ("MESSAGE", "PROMPT", "BODY", "JSON")
        arguments = [each for each in self.params if each.param_type_name == "argument"]
        if any(each.metavar in texts for each in arguments):
            return f"{message}. A text with spaces needs quotes."
        names = " and ".join(str(each.metavar) for each in arguments)
        return f"{message}. It takes {names or 'options alone'}{' and options' if names else ''}."

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)
        for parameter in parameters:
            _name_type(parameter)
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # a UsageError: click's, or of the copy of click in newer versions of typer
            if hasattr(error, "message"):  # and not the end after --help
                _explain(error, self)
            raise


def _name_type(parameter: Any) -> None:
    """Let the help say TEXT where newer versions of typer say <list[str]>; older ones do so by themselves."""
    annotation = str(getattr(getattr(parameter, "type_descriptor", None), "annotation", ""))
    named = {"int": "NUMBER", "float": "NUMBER", "Path": "PATH", "str": "TEXT"}
    found = next((words for kind, words in named.items() if kind in annotation), None)
    if getattr(parameter, "is_flag", False) or (parameter.metavar and parameter.param_type_name == "argument"):
        parameter.display_type_rich = lambda ctx: None  # it takes no value, or has a name
    elif found is not None and parameter.metavar is None:
        parameter.metavar = found


class Group(TyperGroup):
    """A group of commands that names them where there is none of the name that was given."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            message = getattr(error, "message", "")
            if "No such command" in message:
                error.message = _other_command(self, ctx, args[0]) or message  # type: ignore[attr-defined]
            raise


def _other_command(group: TyperGroup, ctx: Any, name: str) -> str:
    """What to say of a command that there is not; "" where the parser has said it."""
    from dbllm.cli.misnomers import other_command

    own = other_command("dbllm" if ctx.parent is None else str(group.name), name)
    if not own and difflib.get_close_matches(name, group.commands):
        return ""
    hint = f"Use {own}." if own else f"There are: {', '.join(group.commands)}."
    return f"No such command '{name}'. {hint}"


def _explain(error: Any, command: Command) -> None:
    from dbllm.cli.misnomers import other_option  # here: no command needs it that is used rightly
    from dbllm.cli.words import option_problem

    named = {each.name for each in command.params}
    takes_param = "param" in named
    message, option = getattr(error, "message", ""), getattr(error, "option_name", None) or ""
    if "extra argument" in message:
        message = command.say_extra(message)
    elif own := other_option(str(command.name), option, of_models=bool(named & {"param", "tag"})):
        message, error.possibilities = f"No such option: {option}. {own}.", None
    elif option.startswith("--") and takes_param and not _is_near(option, command):
        message += f". A parameter of the model is --param {option[2:].replace('-', '_')}=VALUE."
    error.message = option_problem(error) or message


def _is_near(option: str, command: TyperCommand) -> bool:
    """Whether an option is one of the command's with a typing error in it."""
    known = [name for parameter in command.params for name in parameter.opts]
    return bool(difflib.get_close_matches(option, known, 1, 0.85))


def connect(host: Host = None, profile: Profile = None, timeout: Seconds = None, verbose: Verbose = False) -> Client:
    """A client by the options that the commands share."""
    from dbllm import Client

    if verbose:
        show_calls()
    return Client(host, profile=profile, timeout=timeout)


class _Notes(logging.Handler):
    """Writes a log's lines to the standard error, and none of them into an answer that is being printed."""

    def emit(self, record: logging.LogRecord) -> None:
        note(printable(self.format(record)))


def show_calls() -> None:
    """Let the SDK's log go to the standard error."""
    handler = _Notes()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("dbllm")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)  # a call that was answered at once is told of at this level


def client_command(
    app: typer.Typer, name: str | None = None, *, check: Callable[..., None] | None = None, cls: type[Command] = Command
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of `app`: it gets a client before its own words, and the command gets its options.

    A failure ends the command with one line and exit status 1. `check` sees the words before there is a client, and
    refuses wrong usage. A function with a `timeout` of its own takes that option's place.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(connect, localns={"Client": object}, include_extras=True)
        hints |= get_type_hints(function, localns={"Client": object}, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        shared = inspect.signature(connect).parameters.keys() - {parameter.name for parameter in own}
        parameters = own + [each for each in inspect.signature(connect).parameters.values() if each.name in shared]

        @functools.wraps(function)
        def command(**words: Any) -> None:
            from dbllm import DbllmError

            if check is not None:
                check(**words)
            try:
                with connect(**{key: words.pop(key) for key in shared}) as client:
                    function(client, **words)
            except (DbllmError, TypeError, ValueError) as error:  # the SDK refuses arguments with the last two
                print_error(error)
                raise typer.Exit(1) from error

        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [each.replace(kind=each.KEYWORD_ONLY, annotation=hints[each.name]) for each in parameters]
        )
        command.__annotations__ = {each.name: hints[each.name] for each in parameters}
        return app.command(name, cls=cls)(command)

    return register
