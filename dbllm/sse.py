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
        self._after_cr = False
        self._data: list[bytes] = []
        self._held = 0
        self._type = ""
        self._began = False

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended: true at the end of input when the stream was cut."""
        return bool(self._size or self._data)

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes.

        Raises:
            ValueError: a line of over 8 MiB or an event of over 16 MiB.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
        lines = chunk.split(b"\n")
        if self._rest:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest, self._size = [], 0
        self._keep(lines.pop())
        events: list[Event] = []
        for line in lines:
            if not self._began:
                self._began = True
                line = line.removeprefix(b"\xef\xbb\xbf")
            self._line(line, events)
        return events

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._rest.append(piece)
            self._size += len(piece)
            if self._size > MAX_LINE:
                raise ValueError(f"a line of the event stream is over {MAX_LINE} bytes")

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                events.append(Event(data, self._type))
                self._data, self._held = [], 0
            self._type = ""
            return
        if line.startswith(b"data"):
            value = line[6:] if line.startswith(b"data: ") else line[5:] if line[4:5] == b":" else None
            if value is None and len(line) > 4:  # a field whose name only begins with "data"
                return
            self._data.append(value or b"")
            self._held += len(line)
            if self._held > MAX_EVENT:
                raise ValueError(f"an event of the stream is over {MAX_EVENT} bytes")
        elif line.startswith(b"event:"):
            self._type = line[6:].removeprefix(b" ").decode("utf-8", "replace")
