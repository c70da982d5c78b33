"""Server-sent events from bytes, in any chunking, in linear time. Pure.

Written from the WHATWG text of the format: lines end with LF, CR or CRLF and with nothing else (a str's `splitlines`
knows ten more ends, which occur inside JSON), `data` lines of one event are joined by LF, a line that begins with a
colon is a comment, an empty line ends an event. `id` and `retry` mean nothing for a model's answer and are dropped.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_LINE = 8 * 2**20  # bytes; a model's chunk is some hundred bytes, so this is a broken or hostile server
MAX_EVENT = 16 * 2**20


class Event(NamedTuple):
    """One event: its data (UTF-8, undecoded) and its type ("" when the server named none)."""

    data: bytes
    type: str = ""


class Decoder:
    """Bytes in, events out. Feed what arrives; what is not yet whole waits for the next piece."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of the line that has not ended yet
        self._size = 0
        self._after_cr = self._began = False
        self._data: list[bytes] = []
        self._held = 0
        self._type = ""

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended: true at the end of input when the stream was cut."""
        return bool(self._size or self._data)

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes.

        Raises:
            ValueError: a line of over 8 MiB or an event of over 16 MiB.
        """
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest, self._size = [], 0
            if not self._began:
                self._began = True
                lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        self._rest.append(rest)
        self._size += len(rest)
        if self._size > MAX_LINE:
            raise ValueError(f"a line of the event stream is over {MAX_LINE} bytes")
        events: list[Event] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(Event(b"\n".join(self._data), self._type))
                    self._data, self._held = [], 0
                self._type = ""
            elif not self._data and line.startswith(b"data: ") and len(line) < MAX_EVENT:  # what nearly every line is
                self._data.append(line[6:])
                self._held = len(line)
            else:
                self._field(line)
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value)
            self._held += len(line)
            if self._held > MAX_EVENT:
                raise ValueError(f"an event of the stream is over {MAX_EVENT} bytes")
