"""Ask a model about an image: a file, a URL, or bytes that were never in a file.

pip install -e '.[local]'                 # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/images.py                 # the local model takes no images, and says so
CHAT_ENDPOINT=databricks-claude-sonnet-4-5 python examples/images.py photo.png # on a workspace, a model that does
"""

from __future__ import annotations

import logging
import os
import struct
import sys
import zlib

import dbllm
from dbllm import BadRequestError, Client, DbllmError

CHAT = os.environ.get("CHAT_ENDPOINT", "smollm2-chat")


def red_square(side: int = 16) -> bytes:
    """A PNG, made here."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = (b"\0" + b"\xff\0\0" * side) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(pixels)) + part(b"IEND", b"")


def main(sources: list[str]) -> None:
    images = [dbllm.image(source) for source in sources or [red_square()]]
    question = {"role": "user", "content": ["What do you see? Answer in one sentence.", *images]}
    sizes = ", ".join(f"{len(image['image_url']['url']):,} characters" for image in images)
    print(f"asking {CHAT} about {len(images)} image ({sizes})")
    with Client(timeout=120) as client:
        try:
            print(client.endpoint(CHAT).chat([question], max_tokens=100).text)
        except BadRequestError as error:  # 400: this model, or this image
            sys.exit(f"{CHAT} does not take it: {error.message}")


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        main(sys.argv[1:])
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
