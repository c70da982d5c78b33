"""Images, sounds and files in messages."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from support.samples import chat_answer, route, sent

import dbllm

PNG = b"\x89PNG\r\n\x1a\n1234"
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_an_image_stands_beside_text_in_a_message(make, wire):
    called = route(wire).respond(json=chat_answer())
    url = "https://example.com/cat.png"
    async with make() as client:
        await client.endpoint("ep").chat({"role": "user", "content": ["What?", dbllm.image(url, detail="low")]})
    assert sent(called)["messages"][0]["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]


def test_a_path_and_bytes_become_a_data_url(tmp_path: Path) -> None:
    path = tmp_path / "cat"
    path.write_bytes(PNG)
    wanted = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(PNG)}"}}
    for source in (path, str(path), PNG):
        assert dbllm.image(source) == wanted
    starts = {b"\xff\xd8\xff\xe0": "jpeg", b"GIF89a": "gif", b"RIFF\x00\x00\x00\x00WEBPVP8 ": "webp"}
    for start, kind in starts.items():
        assert dbllm.image(start)["image_url"]["url"].startswith(f"data:image/{kind};base64,")
    assert dbllm.image("data:image/png;base64,AA==")["image_url"]["url"] == "data:image/png;base64,AA=="
    assert dbllm.image(b"??", media_type="image/heic")["image_url"]["url"].startswith("data:image/heic;")


def test_sounds_and_files_have_forms_of_their_own(tmp_path: Path) -> None:
    assert dbllm.audio(WAV) == {"type": "input_audio", "input_audio": {"data": encoded(WAV), "format": "wav"}}
    assert dbllm.audio(b"ID3\x04")["input_audio"]["format"] == "mp3"
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.7")
    data = f"data:application/pdf;base64,{encoded(b'%PDF-1.7')}"
    assert dbllm.file(path) == {"type": "file", "file": {"filename": "a.pdf", "file_data": data}}
    assert dbllm.file(b"%PDF-1.7", name="b.pdf")["file"]["filename"] == "b.pdf"
    assert dbllm.file(b"a,b", media_type="text/csv")["file"]["file_data"].startswith("data:text/csv;")


@pytest.mark.parametrize(
    ("make_item", "error", "words"),
    [
        (lambda: dbllm.image(b"%PDF-1.7"), ValueError, "no image but application/pdf: say what it is with media_type="),
        (lambda: dbllm.image(b"hello"), ValueError, "an unknown kind of image"),
        (lambda: dbllm.audio(PNG), ValueError, "no audio but image/png"),
        (lambda: dbllm.audio("https://example.com/a.mp3"), ValueError, "do not fetch sounds"),
        (lambda: dbllm.image("/no/such/cat.png"), FileNotFoundError, "cat.png"),
        (lambda: dbllm.image(b""), ValueError, "is empty"),
        (lambda: dbllm.image(""), ValueError, "'' is none of them"),
        (lambda: dbllm.image("s3://bucket/cat.png"), ValueError, r"https: or data:.*'s3://bucket/cat.png' is none"),
        (lambda: dbllm.file("dbfs:/a.pdf"), ValueError, "a file's path"),
        (lambda: dbllm.audio("file:///a.wav"), ValueError, "a file's path"),
        (lambda: dbllm.image("a\0b"), ValueError, "is none of them"),
        (lambda: dbllm.audio(b"x", media_type="wav"), ValueError, "is such as"),
        (lambda: dbllm.image(PNG, media_type=3), ValueError, "is such as"),  # type: ignore[arg-type]
        (lambda: dbllm.image(5), TypeError, "a file's path or bytes, not int"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_sent_says_why(make_item: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_item()


def test_a_sound_of_mp3_needs_no_title() -> None:
    for layer in (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"ID3"):
        assert dbllm.audio(layer + b"\x90")["input_audio"]["format"] == "mp3", layer
