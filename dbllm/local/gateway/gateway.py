"""The gateway to external models: a request goes to the provider in its words, the answer comes back in Databricks'.

What goes wrong before the first byte is a Problem. An error of the provider keeps its status and its body, inside
`{"error": "Received error from openai", "external_model_message": {...}}` (Databricks REST).
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dbllm._protocol.sse import Decoder
from dbllm.local.errors import Problem
from dbllm.local.gateway import dialect, providers
from dbllm.local.gateway.reach import Reach, guard, read_reach
from dbllm.local.http.asgi import Emit, EventStream, decode_json, until_gone
from dbllm.local.http.client import http_client
from dbllm.local.json_values import Json
from dbllm.local.management.served_entity import Entity

EXECUTION = 297.0
"""Seconds that a call may take (Databricks docs: model serving limits); in a stream, until the next piece."""

HINTS = ("retry-after", "retry-after-ms")
"""Headers of a provider's error that say when to come again."""

_T = TypeVar("_T")


@dataclass
class ProviderProblem(Problem):
    """A provider's own error, as Databricks wraps it."""

    content: Json = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        return self.content


class Gateway:
    """Calls external models.

    Args:
        secret: the text of a secret by scope and key; None when there is none.
        upstreams: base URLs by provider, in place of the providers' own.
        timeout: seconds that a provider has.
        reach: which servers may be called that are not public; default: those of `upstreams`.
    """

    def __init__(
        self,
        secret: providers.Secrets,
        upstreams: Mapping[str, str] | None = None,
        *,
        timeout: float = EXECUTION,
        reach: Reach | None = None,
    ) -> None:
        self._secret = secret
        self._upstreams = dict(upstreams or {})
        self._timeout = timeout
        self._reach = read_reach((), self._upstreams.values()) if reach is None else reach
        self._client: httpx.AsyncClient | None = None

    async def call(self, request: Request, entity: Entity, task: str, body: bytes) -> Response:
        """The answer of an external model to a request of `task`, whose body has been read.

        Raises:
            Problem: whatever went wrong before the first byte of the answer.
            ClientGoneError: the client went away; the provider was let go.
        """
        external = entity.config.get("external_model")
        if not isinstance(external, Mapping):
            raise Problem(400, "INVALID_PARAMETER_VALUE", f"'{entity.name}' has no 'external_model'.")
        wanted = dialect.read_request(task, decode_json(body))
        target = providers.target(external, task, self._secret, self._upstreams, self._reach)
        call = _ProviderCall(str(external["provider"]), str(external["name"]), task, target)
        payload = target.dialect.request(task, call.model, wanted)
        headers = {"served-model-name": entity.name}
        if not wanted.get("stream"):
            answer = await until_gone(request.receive, self._within(call, self._whole(call, payload)))
            return JSONResponse(answer, headers=headers)
        stream = await until_gone(request.receive, self._within(call, self._open(call, payload)))
        return EventStream(functools.partial(_emit, call, stream), headers)

    async def close(self) -> None:
        """Close the connections to the providers."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _http(self) -> httpx.AsyncClient:
        # Made at the first call: reading the certificates takes time that most workspaces need not spend.
        if self._client is None:
            self._client = guard(http_client(self._timeout), self._reach)
        return self._client

    async def _within(self, call: _ProviderCall, work: Awaitable[_T]) -> _T:
        try:
            return await asyncio.wait_for(work, self._timeout)
        except (asyncio.TimeoutError, httpx.TimeoutException) as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise call.unreachable(error) from error
            raise Problem(
                504, "DEADLINE_EXCEEDED", f"{call.provider} did not answer within {self._timeout:g} seconds."
            ) from error
        except httpx.ConnectError as error:
            raise call.unreachable(error) from error
        except httpx.TransportError as error:
            raise call.broken("broke off the answer") from error

    async def _open(self, call: _ProviderCall, payload: Json) -> httpx.Response:
        """The provider's answer, a success whose body has not been read."""
        content = json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace")
        outgoing = self._http().build_request("POST", call.target.url, headers=call.target.headers, content=content)
        answer = await self._http().send(outgoing, stream=True)
        kind = answer.headers.get("content-type", "")
        if answer.is_success and (not payload.get("stream") or kind.startswith("text/event-stream")):
            return answer
        try:
            if answer.is_success:
                raise call.broken(f"answered with {kind or 'no content type'} where a stream was asked for")
            raise call.refused(answer.status_code, await answer.aread(), answer.headers)
        finally:
            await answer.aclose()

    async def _whole(self, call: _ProviderCall, payload: Json) -> Json:
        answer = await self._open(call, payload)
        try:
            response = json.loads(await answer.aread())
            if not isinstance(response, dict):
                raise ValueError("it is not a JSON object")
            return call.target.dialect.answer(call.task, call.model, response)
        except (LookupError, TypeError, ValueError) as error:
            raise call.broken(f"answered in another form than promised ({type(error).__name__}: {error})") from error
        finally:
            await answer.aclose()


@dataclass(frozen=True, slots=True)
class _ProviderCall:
    """One call of a provider, and how its failures are told."""

    provider: str
    model: str
    task: str
    target: providers.Target

    def refused(self, status: int, body: bytes, headers: httpx.Headers) -> ProviderProblem:
        """The provider's error, without our credential should it stand in there."""
        text = body.decode("utf-8", "replace").replace(self.target.credential, "***")
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            message = {"message": text[:2000]}
        summary = f"Received error from {self.provider}"
        hints = {name: headers[name] for name in HINTS if name in headers}
        # A redirect is no answer: the credential is not sent on to another place.
        return ProviderProblem(
            status if status >= 400 else 502,
            "EXTERNAL_MODEL_ERROR",
            summary,
            hints,
            {"error": summary, "external_model_message": message},
        )

    def unreachable(self, error: httpx.TransportError) -> Problem:
        place = self.target.url.split("?")[0]
        reason = str(error) or type(error).__name__
        return Problem(503, "TEMPORARILY_UNAVAILABLE", f"{self.provider} cannot be reached at {place}: {reason}.")

    def broken(self, how: str) -> Problem:
        return Problem(502, "BAD_GATEWAY", f"{self.provider} {how}.")


async def _emit(call: _ProviderCall, stream: httpx.Response, emit: Emit) -> None:
    """Hand on a provider's stream, event by event as they come."""
    reader = call.target.dialect.reader(call.task, call.model)
    decoder = Decoder()
    try:
        async for part in stream.aiter_bytes():
            for event in decoder.feed(part):
                for chunk in reader.feed(event.data.decode("utf-8", "replace")):
                    await emit(chunk)
                if reader.done:
                    return
    except httpx.TransportError as error:
        raise call.broken("broke off its stream") from error
    except (LookupError, TypeError, ValueError) as error:
        raise call.broken(f"streamed in another form than promised ({type(error).__name__}: {error})") from error
    finally:
        await stream.aclose()
    raise call.broken("ended its stream before the answer was whole")
