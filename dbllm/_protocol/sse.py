"""Server-sent events from bytes, in any chunking, in linear time. Pure.

Written from the WHATWG text of the format: lines end with LF, CR or CRLF and with nothing else (a str's `splitlines`
knows ten more ends, which occur inside JSON), `data` lines of one event are joined by LF, a line that begins with a
colon is a comment, an empty line ends an event. `retry` means nothing for a model's answer and is dropped.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_LINE = 8 * 2**20  # bytes; a model's chunk is some hundred bytes, so this is a broken or hostile server
MAX_EVENT = 16 * 2**20


class Event(NamedTuple):
    """One event: its data (UTF-8, undecoded), its type and its id ("" when the server named none)."""

    data: bytes
    type: str = ""
    id: str = ""


DONE = b"[DONE]"
_WORD = r"ping|pong|(?:keep|still)[ _-]?alive|alive|heart[ _-]?beat|hb|no[ _-]?op"
_KEEP_ALIVE_TYPE = re.compile(_WORD, re.IGNORECASE)
_KEEP_ALIVE = re.compile(
    rf"""
      :.*                                                              # a comment inside an event
    | null
    | [\[(<#*]* (?:{_WORD}) [\])>#*!.:\s\d-]*                          # a word, also [PING] or ping 12
    | \d{{4}}-\d\d-\d\d [T\s] \d\d:\d\d [\d:.,+Z\s-]*                   # a date and time
    | [A-Z][a-z][a-z], \s \d\d? [\s-] [A-Z][a-z][a-z] [\s-] \d{{2,4}} \s [\d:]+ (?:\s[A-Z]+)?
    | \d{{10,16}} (?:\.\d+)?                                            # seconds or milliseconds since 1970
    """.encode(),
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def is_keep_alive(event: Event) -> bool:
    """Whether an event says no more than that the server is alive: it is empty, a comment, a date or a word for it.

    Any other text is a piece of the answer, or none that is understood: nothing of an answer may be lost.
    """
    if event.type and _KEEP_ALIVE_TYPE.fullmatch(event.type):
        return True
    if event.data[:1] in (b"{", b'"') or event.type == "error":  # the usual piece; a failure
        return False
    data = event.data.strip()
    return not data or _KEEP_ALIVE.fullmatch(data) is not None


def is_event_stream(content_type: str, start: bytes) -> bool | None:
    """Whether a body is an event stream; None where its first bytes, `start`, do not say so yet.

    They count more than the content type: servers send events as text/plain, as JSON or without a type, and a whole
    answer as text/event-stream.
    """
    typed = content_type.lower().startswith("text/event-stream")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if typed:
        return not text.startswith((b"{", b"[", b'"', b"<"))
    if text.startswith(_FIELDS):
        return True
    return None if len(start) < 1024 and any(name.startswith(text) for name in _FIELDS) else False


class Decoder:
    """Bytes in, events out. Feed what arrives; what is not yet whole waits for the next piece."""

    def __init__(self) -> None:
        self._rest = bytearray()  # the line that has not ended yet
        self._after_cr = self._began = False
        self._data: list[bytes] = []
        self._held = 0
        self._type = self._id = ""

    def end(self) -> list[Event]:
        """The events that the body's end completes: none but an end that was announced, without a line break."""
        return self.feed(b"\n") if self._rest else []

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended: true at the end of input when the stream was cut."""
        return bool(self._rest or self._data)

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
            if self._rest:
                lines[0] = bytes(self._rest) + lines[0]
                self._rest.clear()
            if not self._began:
                self._began = True
                lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        self._rest += rest
        if len(self._rest) > MAX_LINE:
            raise ValueError(f"a line of the event stream is over {MAX_LINE} bytes")
        events: list[Event] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(Event(b"\n".join(self._data), self._type, self._id))
                    self._data, self._held = [], 0
                self._type = self._id = ""
            elif not self._data and line.startswith(b"data: ") and len(line) < MAX_EVENT:  # what nearly every line is
                self._data.append(line[6:])
                self._held = len(line)
            else:
                self._field(line)
        if self._data and self._data[0].strip() == DONE:  # nothing may follow: some servers leave out the empty line
            events.append(Event(b"\n".join(self._data), self._type, self._id))
            self._data, self._held = [], 0
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id":
            self._id = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value)
            self._held += len(line)
            if self._held > MAX_EVENT:
                raise ValueError(f"an event of the stream is over {MAX_EVENT} bytes")
