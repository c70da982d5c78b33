"""A socket that is connected to one of a name's addresses, and no other that stays open, whatever interrupts this."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

import anyio

RACE = 0.25  # seconds before the next address of a name is tried as well (RFC 8305)
Address = tuple[Any, ...]  # as `getaddrinfo` gives it: family, kind, protocol, canonical name, address


async def dial(
    found: Sequence[Address], connect: Callable[[socket.socket, Any], Awaitable[None]], delay: float = RACE
) -> socket.socket:
    """A socket that `connect` has connected to the first address to answer; a new one is tried after each `delay`.

    asyncio's own race forgets a socket that was connected in the moment in which the call is cancelled. Here every
    socket is in one list from its first moment, and what is in it at the end is closed.

    Raises:
        OSError: no address answers; the last reason.
    """
    opened: list[socket.socket] = []
    connected: list[socket.socket] = []
    flaw = OSError("the name has no address")

    async def attempt(family: int, kind: int, protocol: int, _: str, address: Any) -> None:
        nonlocal flaw
        try:
            sock = socket.socket(family, kind, protocol)
            opened.append(sock)
            sock.setblocking(False)
            await connect(sock, address)
            connected.append(sock)
            group.cancel_scope.cancel()
        except OSError as error:
            flaw = error

    async def attempt_then(ended: anyio.Event, place: Address) -> None:
        try:
            await attempt(*place)
        finally:
            ended.set()

    try:
        async with anyio.create_task_group() as group:
            for place in _by_turns(found):
                ended = anyio.Event()
                group.start_soon(attempt_then, ended, place)
                with anyio.move_on_after(delay):
                    await ended.wait()
        if not connected:
            raise flaw
        opened.remove(connected[0])
        return connected[0]
    finally:
        for sock in opened:
            sock.close()


def _by_turns(found: Sequence[Address]) -> list[Address]:
    """The addresses of both families by turns (RFC 8305, section 4): one that has no way out costs one `delay`."""
    first = [place for place in found if place[0] == found[0][0]]
    other = [place for place in found if place[0] != found[0][0]]
    return [place for place in chain.from_iterable(zip_longest(first, other)) if place is not None]
