"""The interface of a task: it reads requests and makes answers, whole or streamed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from starlette.requests import Request

from dbllm.local.errors import bad_request
from dbllm.local.http.asgi import Emit
from dbllm.local.invocation.local_models import LocalModels


class TaskRequest(Protocol):
    """A request that has been read."""

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted piece by piece."""
        ...


RequestT = TypeVar("RequestT", bound=TaskRequest)


class Task(ABC, Generic[RequestT]):
    """One task of the workspace's own models."""

    @abstractmethod
    def read(self, request: Request, body: bytes) -> RequestT:
        """The request; its body has been read.

        Raises:
            Problem: what does not fit the task.
        """

    @abstractmethod
    async def answer(self, models: LocalModels, model: str, wanted: RequestT) -> object:
        """The JSON of the whole answer; `model` is what it calls its model.

        Raises:
            Problem: what the models cannot do.
        """

    async def stream(self, models: LocalModels, model: str, wanted: RequestT, emit: Emit) -> object:
        """Hand the frames of the answer to `emit` as they come.

        Raises:
            Problem: what the models cannot do.
        """
        raise bad_request("this endpoint does not stream")
