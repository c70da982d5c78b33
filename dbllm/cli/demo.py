"""`dbllm demo`: a local workspace with a real small model, and each kind of call with its code and its answer.

The functions below are shown by their own source, and are what runs: there is no second copy of the code. They find
the workspace in the environment, so they run against any other workspace as they stand.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.syntax import Syntax

from dbllm import AsyncClient, ChatCompletion, Client, DbllmError, Embeddings, Usage
from dbllm.cli import console
from dbllm.local import Workspace
from dbllm.local.driver.server import DriverServer

Answer = ChatCompletion | Embeddings | None
Example = Callable[..., Answer | Awaitable[Answer]]


async def complete() -> None:
    async with AsyncClient() as client:
        limits = {"max_tokens": 32, "temperature": 0}
        dolly = client.endpoint("dolly", params=limits)
        print(await dolly.complete("How are you?"))
        print(await dolly.complete("How are you?", stop=["."]))


async def chat() -> ChatCompletion:
    async with AsyncClient() as client:
        smollm2 = client.endpoint("smollm2-chat")
        reply = await smollm2.chat("hello", max_tokens=32)
        print(reply.text)
        return reply


def complete_in_plain_code() -> None:
    with Client() as client:
        dolly = client.endpoint("dolly")
        print(dolly.complete("How are you?", max_tokens=32))


def chat_in_plain_code() -> ChatCompletion:
    with Client() as client:
        smollm2 = client.endpoint("smollm2-chat")
        reply = smollm2.chat("hello", max_tokens=32)
        print(reply.text)
        return reply


async def stream() -> ChatCompletion:
    async with AsyncClient() as client:
        smollm2 = client.endpoint("smollm2-chat", params={"max_tokens": 48})
        async with smollm2.stream_chat("Tell me about rivers.") as chunks:
            async for chunk in chunks:
                print(chunk.text, end="", flush=True)
            print()
            return await chunks.final()


async def embed() -> Embeddings:
    async with AsyncClient() as client:
        bge = client.endpoint("databricks-bge-large-en")
        texts = ["a dog in the garden", "a puppy on the lawn", "copper prices"]
        reply = await bge.embed(texts)
        for text, vector in zip(texts, reply.vectors, strict=True):
            pairs = zip(reply.vectors[0], vector, strict=True)
            cosine = sum(a * b for a, b in pairs)  # all have length 1
            print(f"{cosine:5.2f}  {text}")
        return reply


async def predict() -> None:
    async with AsyncClient() as client:
        answer = await client.endpoint("dolly").predict(
            dataframe_records=[{"prompt": "Name a colour.", "stop": ["."]}, {"prompt": "Name a city.", "stop": ["."]}],
            params={"max_tokens": 24},
        )
        print(answer.predictions)


async def ask_driver_app(port: int) -> None:
    async with AsyncClient() as client:
        app = client.driver_app(port)  # of the cluster DATABRICKS_CLUSTER_ID
        print(await app.complete("How are you?", max_tokens=32))


EXAMPLES: tuple[tuple[str, Example], ...] = (
    ("One text from a custom model; with a stop, the answer ends before it", complete),
    ("A chat model", chat),
    ("The same in plain code: Client has the same names, without await", complete_in_plain_code),
    ("And the chat model in plain code", chat_in_plain_code),
    ("An answer that is printed as it comes", stream),
    ("Embeddings: how near are these texts to the first of them?", embed),
    ("A custom model, several rows in one call", predict),
    ("A driver app: a small HTTP server on a cluster's driver node", ask_driver_app),
)

MODELS = """\
Every answer below is made on this machine: text by SmolLM2-135M-Instruct (very
small: fluent, seldom right), vectors by wordllama, which stands in for BGE
under BGE's name. The first start fetches the text model, about 93 MB."""

NEXT = """\
The same code runs on a Databricks workspace. Say which one:
    export DATABRICKS_HOST=https://my-workspace.cloud.databricks.com
    export DATABRICKS_TOKEN=...
or name a profile of ~/.databrickscfg: AsyncClient(profile="my-profile").

For code of your own without an account, start this workspace by itself:
    dbllm up"""


def run() -> None:
    """Show all examples; the entry point of `dbllm demo`.

    Raises:
        typer.Exit: one of them failed, which has been said in a sentence.
    """
    try:
        _show_all(console.rich_console())
    except BrokenPipeError:
        raise
    except Exception as error:  # whoever tries this out for the first time gets a sentence, whatever it was
        reason = error if isinstance(error, DbllmError) else f"{type(error).__name__}: {error}"
        console.print_error(f"the demo stopped. {reason}")
        raise typer.Exit(1) from error


def _show_all(out: Console) -> None:
    began = time.perf_counter()
    _say(out, "\nA Databricks workspace on this machine", "bold")
    _say(out, MODELS)
    with Workspace() as workspace, environment(workspace.env), DriverServer(port=0) as app:
        _say(out, f"    [{workspace.host} and a driver app on port {app.port}: ready in {_since(began)}]", "dim")
        for number, (title, example) in enumerate(EXAMPLES, 1):
            _say(out, f"\n{number}. {title}", "bold")
            _show_code(out, inspect.getsource(example))
            arguments = {"port": app.port} if "port" in inspect.signature(example).parameters else {}
            _say(out, f"    [{account(*timed(example, **arguments))}]", "dim")
    _say(out, "\nWhat next", "bold")
    _say(out, NEXT)
    _say(out, f"    [all of this took {_since(began)}]", "dim")


def timed(example: Example, **arguments: int) -> tuple[Answer, float]:
    """Run an example, async or not: what it returned, and the seconds it took."""
    began = time.perf_counter()
    answer = example(**arguments)
    if inspect.iscoroutine(answer):
        answer = asyncio.run(answer)
    return answer, time.perf_counter() - began  # type: ignore[return-value]


def account(answer: Answer, seconds: float) -> str:
    """What an answer took: the time from client to answer, and tokens where the model reported them."""
    if answer is None:
        return f"{seconds:.2f} s; no token counts: this kind of endpoint answers text alone"
    usage = answer.usage or Usage()
    parts = [f"{seconds:.2f} s", f"{usage.prompt_tokens} tokens in"]
    if usage.completion_tokens:
        parts.append(f"{usage.completion_tokens} out, {usage.completion_tokens / seconds:.0f} tokens/s")
    return "; ".join([", ".join(parts), f"by {answer.model}"])


def _since(began: float) -> str:
    return f"{time.perf_counter() - began:.1f} s"


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment with these variables, and without any other that names a workspace: a real one is not called.

    Nor is a proxy: it could not reach this machine's loopback.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith("DATABRICKS_"):
            del os.environ[name]
    unproxied = ",".join(filter(None, [before.get("no_proxy") or before.get("NO_PROXY"), "127.0.0.1"]))
    os.environ.update(variables, no_proxy=unproxied, NO_PROXY=unproxied)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _say(out: Console, text: str, style: str | None = None) -> None:
    # markup off: brackets in a title or in code are meant. The examples print too, so nothing may be left behind.
    out.print(text, style=style, markup=False, soft_wrap=True)
    out.file.flush()


def _show_code(out: Console, source: str) -> None:
    """Source code; the answers follow, printed by that code itself."""
    if out.color_system:
        out.print(Syntax(source, "python", theme="ansi_dark", background_color="default"), soft_wrap=True)
    else:
        _say(out, source)
