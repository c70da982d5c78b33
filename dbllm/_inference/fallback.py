"""Further endpoints for when one does not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .._transport.retry import Retry, may_send_again
from ..errors import APIError

if TYPE_CHECKING:
    from .handle import ModelHandle

T = TypeVar("T")

COOL_SECONDS = 30.0  # for how long an endpoint that failed is passed over, if the server names no time


@dataclass(frozen=True, slots=True)
class Fallback:
    """Endpoints in the order in which to ask them; `cooling` says until when each is passed over."""

    handles: tuple[ModelHandle, ...]
    cooling: dict[str, float]

    async def first_answer(
        self, call: Callable[[ModelHandle], Awaitable[T]], retry: Retry, clock: Callable[[], float]
    ) -> T:
        """The result of the first endpoint that answers; where none does, the last one's error.

        Raises:
            APIError: an endpoint failed in a way after which nothing is sent again, or the last one failed.
        """
        ready = [handle for handle in self.handles if self.cooling.get(handle.name, 0.0) <= clock()]
        handles = ready or self.handles
        failed: list[APIError] = []
        for handle in handles:
            try:
                return await call(handle)
            except APIError as error:
                if may_send_again(error, retry):
                    self.cooling[handle.name] = clock() + (error.retry_after or COOL_SECONDS)
                    if handle is not handles[-1]:
                        failed.append(error)
                        continue
                error.previous = (*failed, *error.previous)
                raise
        raise AssertionError("the last endpoint returns or raises")
