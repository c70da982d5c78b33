"""Images, sounds and files in the messages of a chat."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

Source = str | os.PathLike[str] | bytes
"""A URL (https: or data:), a file's path, or the content itself."""

_BY_START: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"ID3", "audio/mpeg"),
    *((bytes((0xFF, layer)), "audio/mpeg") for layer in (0xFB, 0xFA, 0xF3, 0xF2)),  # MP3 without a title
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"%PDF-", "application/pdf"),
)
_OTHER_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a drive of Windows has one letter
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(;.*)?")
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav"}


def image(source: Source, *, media_type: str | None = None, detail: str | None = None) -> dict[str, Any]:
    """An image for the `content` of a chat message.

        await endpoint.chat({"role": "user", "content": ["What is this?", dbllm.image("cat.png")]})

    Args:
        source: a URL (https: or data:), which is sent as it is; or a file's path, or the image itself, as bytes.
        media_type: "image/png" …; default: what the first bytes say.
        detail: "low", "high" or "auto", for models that know it.

    Raises:
        FileNotFoundError, OSError: the file cannot be read.
        ValueError: the content is no image, or of an unknown kind.
    """
    url = {"url": _url(source, media_type, "image"), **({"detail": detail} if detail else {})}
    return {"type": "image_url", "image_url": url}


def audio(source: Source, *, media_type: str | None = None) -> dict[str, Any]:
    """A sound for the `content` of a chat message, as `image`; models take no URL of one."""
    if isinstance(source, str) and _is_url(source):
        raise ValueError("audio() takes a file's path or bytes: models do not fetch sounds from a URL.")
    data = _content_of(source)
    kind = _kind_of(data, "audio", media_type).partition("/")[2]
    sound = {"data": base64.b64encode(data).decode(), "format": _AUDIO_FORMATS.get(kind, kind)}
    return {"type": "input_audio", "input_audio": sound}


def file(source: Source, *, name: str | None = None, media_type: str | None = None) -> dict[str, Any]:
    """A file, such as a PDF, for the `content` of a chat message, as `image`; `name` is what the model sees."""
    is_path = isinstance(source, os.PathLike) or (isinstance(source, str) and not _is_url(source))
    shown = name or (os.path.basename(source) if is_path else "file")
    return {"type": "file", "file": {"filename": shown, "file_data": _url(source, media_type, "")}}


def _is_url(source: str) -> bool:
    return source.lower().startswith(("https://", "http://", "data:"))


def _url(source: Source, media_type: str | None, family: str) -> str:
    if isinstance(source, str) and _is_url(source):
        return source
    data = _content_of(source)
    return f"data:{_kind_of(data, family, media_type)};base64,{base64.b64encode(data).decode()}"


def _content_of(source: Source) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"it takes a URL, a file's path or bytes, not {type(source).__name__}.")
    if isinstance(source, str) and (not source or "\0" in source or _OTHER_URL.match(source)):
        raise ValueError(f"it takes a URL (https: or data:), a file's path or bytes, and {source!r} is none of them.")
    return Path(source).expanduser().read_bytes()


def _kind_of(data: bytes, family: str, told: str | None) -> str:
    if told:
        if not isinstance(told, str) or not _MEDIA_TYPE.fullmatch(told):
            raise ValueError(f'media_type is such as "image/png", got {told!r}.')
        return told
    if not data:
        raise ValueError("the content is empty.")
    found = next((kind for start, kind in _BY_START if data.startswith(start)), None)
    if data.startswith(b"RIFF"):
        found = _RIFF.get(data[8:12])
    if found is None or (family and not found.startswith(f"{family}/")):
        what = f"{'no' if found else 'an unknown kind of'} {family or 'file'}"
        raise ValueError(f"the content is {what}{f' but {found}' if found else ''}: say what it is with media_type=.")
    return found
