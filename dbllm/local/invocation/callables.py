"""A user's Python callable as a model: loading it, calling it without blocking the event loop, and its text in pieces.

It is called `fn(prompt, stop=None, **params)` and returns the text, awaits it, or yields it in pieces (sync or async).
A text pipeline of `transformers` is taken for such a callable; it is known by its looks, so nothing is imported.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from dbllm.local.errors import LocalError, Problem
from dbllm.local.invocation.stop_strings import StopCutter

Answerer = Callable[..., object]
"""`fn(prompt, stop=None, **params)`: str, an awaitable of str, or a (sync or async) iterator of str."""


class RefusedError(Exception):
    """Raise it in a callable to answer 400 with the text as the reason; any other exception is the callable's fault."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked of a callable: the prompt, the stop strings, and every other field."""

    prompt: str
    stop: tuple[str, ...]
    params: Mapping[str, object]


def load_callable(name: str) -> Answerer:
    """The callable that "module:function" names; modules of the working folder are found too.

    Raises:
        LocalError: there is no such module or function, or importing it fails.
    """
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        target: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise LocalError(
            f"{name} cannot be loaded: {error}. Give module:function; modules of the working folder are found too."
        ) from error
    except Exception as error:
        raise LocalError(f"{name} cannot be loaded: its module raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(target):
        raise LocalError(f"{name} is not a function.")
    return as_answerer(target)


def as_answerer(target: Answerer) -> Answerer:
    """`target` itself, or a callable around a `transformers` pipeline that makes text."""
    return pipeline_answerer(target) if getattr(target, "task", None) in PIPELINES else target


PIPELINES = ("text-generation", "text2text-generation", "summarization", "translation")


def pipeline_answerer(pipeline: Any) -> Answerer:
    """A callable around a text pipeline of `transformers`; `max_tokens` and `temperature` mean what they always mean.

    A temperature of 0 is greedy. Every other parameter is handed to the pipeline.
    """

    def answer(prompt: str, stop: Sequence[str] | None = None, **params: object) -> str:
        if "max_tokens" in params:
            params["max_new_tokens"] = params.pop("max_tokens")
        temperature = params.pop("temperature", None)
        if temperature is not None:
            if isinstance(temperature, bool) or not isinstance(temperature, int | float) or temperature < 0:
                raise RefusedError(f"'temperature' must be a number from 0, got {temperature!r}")
            params |= {"do_sample": True, "temperature": float(temperature)} if temperature else {"do_sample": False}
        if pipeline.task == "text-generation":
            params.setdefault("return_full_text", False)  # the prompt is not part of the answer
        output = pipeline(prompt, **params)
        while isinstance(output, list):
            output = output[0]
        return str(
            next(output[name] for name in ("generated_text", "summary_text", "translation_text") if name in output)
        )

    return answer


def signature(answerer: Answerer) -> tuple[frozenset[str], bool]:
    """The names of the parameters a callable takes, and whether it takes any other name too."""
    try:
        parameters = inspect.signature(answerer).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return frozenset(), True
    names = frozenset(parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY)
    return names, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def call_arguments(answerer: Answerer, prompt: Prompt) -> Mapping[str, object]:
    """The keyword arguments to call `answerer` with. `stop` is left out where it is not taken: the app cuts anyway.

    Raises:
        Problem: 400 when the callable does not take one of the parameters.
    """
    names, takes_any = signature(answerer)
    for name in prompt.params:
        if not takes_any and name not in names:
            raise Problem(400, "BAD_REQUEST", f"the model does not take a parameter '{name}'")
    stop = {"stop": list(prompt.stop)} if prompt.stop and (takes_any or "stop" in names) else {}
    return {**prompt.params, "prompt": prompt.prompt, **stop}


async def whole_text(answerer: Answerer, arguments: Mapping[str, object], stop: Sequence[str]) -> str:
    """The whole answer; see `pieces`."""
    async with aclosing(pieces(answerer, arguments, stop)) as answer:
        return "".join([piece async for piece in answer])


async def pieces(answerer: Answerer, arguments: Mapping[str, object], stop: Sequence[str]) -> AsyncGenerator[str, None]:
    """The answer's text without what follows a stop string; pieces are not empty.

    Raises:
        Problem: 400 when the callable refuses.
        TypeError: it gives something else than text.
    """
    cutter = StopCutter(stop)
    try:
        async with aclosing(values(answerer, **arguments)) as outputs:
            async for value in outputs:
                if not isinstance(value, str):
                    raise TypeError(f"the callable gave {type(value).__name__}; it must return or yield str")
                visible = cutter.feed(value)
                if visible:
                    yield visible
                if cutter.stopped:
                    return
    except RefusedError as error:
        raise Problem(400, "BAD_REQUEST", str(error)) from error
    remainder = cutter.rest()
    if remainder:
        yield remainder


async def values(answerer: Answerer, *positional: object, **arguments: object) -> AsyncGenerator[object, None]:
    """What a callable yields, or the one thing that it returns, awaited if need be."""
    # A plain function may compute for long, so it gets a thread; an async one returns at once.
    result = await _run_in_thread(answerer, *positional, **arguments)
    if inspect.isawaitable(result):
        result = await result
    if isinstance(result, AsyncIterator):
        try:
            async for value in result:
                yield value
        finally:
            if isinstance(result, AsyncGenerator):
                await result.aclose()
    elif isinstance(result, Iterator):
        async with aclosing(_from_thread(result)) as outputs:
            async for value in outputs:
                yield value
    else:
        yield result


async def _run_in_thread(function: Callable[..., object], *positional: object, **arguments: object) -> object:
    """Call in one of anyio's threads: they are more than asyncio's own, which the embeddings use."""
    call = functools.partial(function, *positional, **arguments)
    # Nobody waits for a call that was given up; a thread cannot be stopped, so it ends by itself.
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)


async def _from_thread(outputs: Iterator[object]) -> AsyncGenerator[object, None]:
    end = object()
    try:
        while (value := await _run_in_thread(next, outputs, end)) is not end:
            yield value
    finally:
        close = getattr(outputs, "close", None)
        if close is not None:
            with suppress(ValueError):  # it is running at this moment, in the thread that was left behind
                close()
