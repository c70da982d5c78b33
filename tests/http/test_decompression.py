"""Bodies that are compressed, or say so: in any pieces, within limits, and never two answers as one."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import httpx
import pytest
from support.loopback import Peer, chunk, head, keep_answering
from support.modes import permits

import dbllm
from dbllm._http.decompression import STEP, Decompressor, decompressor

ONCE = dbllm.Retry(attempts=1)
TEXT = b"how now, brown cow? " * 500


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def stored(data: bytes) -> bytes:
    """Raw deflate that does not compress."""
    packer = zlib.compressobj(0, wbits=-15)
    return packer.compress(data) + packer.flush()


def read(coding: str, data: bytes, size: int) -> bytes:
    """What a body is, that comes in pieces of this size."""
    reader = decompressor(coding)
    assert reader is not None
    parts: list[bytes] = []
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])
        while piece := reader.take():
            parts.append(piece)
    reader.end()
    return b"".join(parts)


GOOD: dict[str, tuple[str, bytes, bytes]] = {
    "gzip": ("gzip", gzip.compress(TEXT), TEXT),
    "in capitals, with spaces": (" GZip ", gzip.compress(TEXT), TEXT),
    "x-gzip": ("x-gzip", gzip.compress(TEXT), TEXT),
    "zlib as deflate": ("deflate", zlib.compress(TEXT), TEXT),
    "raw deflate": ("deflate", raw_deflate(TEXT), TEXT),
    "raw deflate, not compressed": ("deflate", stored(TEXT[:100]), TEXT[:100]),
    "gzip as deflate": ("deflate", gzip.compress(TEXT), TEXT),
    "zlib as gzip": ("gzip", zlib.compress(TEXT), TEXT),
    "several members": ("gzip", gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(TEXT), b"a" + TEXT),
    "identity as well": ("identity, gzip, identity", gzip.compress(TEXT), TEXT),
    "a charset as well": ("utf-8, gzip", gzip.compress(TEXT), TEXT),
    "twice": ("gzip, deflate", raw_deflate(gzip.compress(TEXT)), TEXT),
    "nothing": ("gzip", b"", b""),
    **{
        f"bytes after the last member: {tail!r}": ("gzip", gzip.compress(TEXT) + tail, TEXT)
        for tail in (b"\0", b"\0" * 600, b"\r\n", b"\x1f", b'{"a": "second"}', b"\x1f\x1f" + gzip.compress(b"second"))
    },
    "bytes after zlib": ("deflate", zlib.compress(TEXT) + b"junk", TEXT),
    "bytes after raw deflate": ("deflate", raw_deflate(TEXT) + b"junk", TEXT),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 10**6])
def test_what_is_compressed_is_read_in_any_pieces(size: int) -> None:
    assert {name: read(coding, data, size) == text for name, (coding, data, text) in GOOD.items()} == dict.fromkeys(
        GOOD, True
    )


BAD: dict[str, tuple[str, bytes]] = {
    **{f"gzip, cut by {cut}": ("gzip", gzip.compress(TEXT)[:-cut]) for cut in (1, 8, 40)},
    "one byte": ("gzip", b"\x1f"),
    "raw deflate, cut": ("deflate", raw_deflate(TEXT)[:-1]),
    "zlib, cut": ("deflate", zlib.compress(TEXT)[:-1]),
    "a second member, cut": ("gzip", gzip.compress(TEXT) + gzip.compress(TEXT)[:-3]),
    "plain text": ("gzip", b'{"plain": "text"}'),
    "a wrong checksum": ("gzip", gzip.compress(TEXT)[:-8] + b"\0" * 8),
    "the inner one, cut": ("gzip, gzip", gzip.compress(gzip.compress(TEXT)[:-1])),
}


@pytest.mark.parametrize("size", [1, 10**6])
def test_what_is_cut_or_wrong_is_never_a_success(size: int) -> None:
    for name, (coding, data) in BAD.items():
        with pytest.raises(zlib.error):
            pytest.fail(f"{name}: {read(coding, data, size)!r}")


def test_words_that_name_no_compression_leave_the_body_as_it_is() -> None:
    for word in ("", " ", "utf-8", "UTF-8", "none", "binary", "8bit", "identity", "identity, identity", ",", "br", "x"):
        assert decompressor(word) is None


def test_one_step_makes_a_megabyte_at_most_and_loses_nothing() -> None:
    reader = decompressor("gzip")
    assert reader is not None
    reader.feed(gzip.compress(b" " * (5 * STEP + 1)))
    sizes = [len(piece) for piece in iter(reader.take, b"")]
    assert (max(sizes), sum(sizes)) == (STEP, 5 * STEP + 1)
    reader.end()


def take_all(reader: Decompressor, data: bytes) -> None:
    reader.feed(data)
    for _ in iter(reader.take, b""):
        pass


def test_a_bomb_is_refused_before_it_fills_the_memory() -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b" " * STEP) for _ in range(400)) + packer.flush()
    for coding, data in (("gzip", bomb), ("gzip, gzip", gzip.compress(bomb))):
        reader = decompressor(coding)
        assert reader is not None
        tracemalloc.start()
        with pytest.raises(ValueError, match="200 times"):
            take_all(reader, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * 2**20


def test_many_empty_members_that_were_compressed_once_more_are_a_bomb_too() -> None:
    """A few KiB would be a million members, each of which takes a step of its own and makes nothing."""
    packed = gzip.compress(gzip.compress(b"") * 100_000)
    assert len(packed) < 10_000
    for layers in (2, 3, 5):
        reader = decompressor(", ".join(["gzip"] * layers))
        assert reader is not None
        with pytest.raises(ValueError, match="200 times"):
            take_all(reader, packed)
        packed = gzip.compress(packed)
    plain = gzip.compress(b"") * 20_000 + gzip.compress(TEXT)  # each has its bytes on the wire
    assert read("gzip", plain, 65536) == TEXT


def test_members_that_say_something_may_be_compressed_once_more() -> None:
    events = [b'data: {"n": %d}\n\n' % number for number in range(2000)]
    packed = b"".join(map(gzip.compress, events))
    for size in (1, 1000, 10**6):
        assert read("gzip, gzip", gzip.compress(packed), size) == b"".join(events)


def test_of_many_codings_the_last_five_are_undone() -> None:
    for layers, left in ((5, 0), (6, 1), (8, 3)):
        data = TEXT
        for _ in range(layers):
            data = gzip.compress(data)
        found = read(",".join(["gzip"] * layers), data, 1000)
        for _ in range(left):
            found = gzip.decompress(found)
        assert found == TEXT
    assert decompressor(",".join(["gzip", "deflate"] * 10_000)) is not None


def test_an_answer_that_compresses_well_is_no_bomb() -> None:
    numbers = json.dumps({"predictions": [0] * 2_000_000}).encode()
    assert read("gzip", gzip.compress(numbers), 65536) == numbers


# --- over a connection ------------------------------------------------------------------------------------------------


def compressed(coding: str, body: bytes) -> Callable[[Peer], None]:
    def play(peer: Peer) -> None:
        while peer.request():
            peer.send(head(length=len(body), content_encoding=coding) + body)

    return play


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_every_engine_reads_the_same_bodies(make, serve, own):
    wrong: list[str] = []
    for coding, body in (
        *((word, b'"hello"') for word in ("UTF-8", "none", "", "binary", "8bit", "identity")),
        ("gzip", gzip.compress(b'"hello"')),
        ("gzip", gzip.compress(b'"hel') + gzip.compress(b'lo"')),
        ("gzip", gzip.compress(b'"hello"') + b'"another"'),
        ("deflate", raw_deflate(b'"hello"')),
        ("deflate", zlib.compress(b'"hello"')),
        ("gzip, identity", gzip.compress(b'"hello"')),
        ("deflate, gzip", gzip.compress(raw_deflate(b'"hello"'))),
    ):
        server = serve(compressed(coding, body))
        async with make(server.host, retry=ONCE, engine=own) as client:
            for _ in range(2):
                try:
                    if (said := await client.request("GET", "/x")) != "hello":
                        wrong.append(f"{coding!r} {body!r}: {said!r}")
                except dbllm.APIError as error:
                    wrong.append(f"{coding!r} {body!r}: {error}")
    assert wrong == []


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_bytes_after_the_last_member_and_after_the_body_are_no_answer(make, serve, own):
    """The first are the body's; the second are another answer, that nobody asked for: its connection is given up."""
    body = gzip.compress(b'"mine"') + head(length=10) + b'"smuggled"'

    def doubled(peer: Peer) -> None:
        while peer.request():
            peer.send(head(length=len(body), content_encoding="gzip") + body + head(length=10) + b'"smuggled"')

    async with make(serve(doubled).host, engine=own) as client:
        for _ in range(3):
            assert await client.request("GET", "/x") == "mine"


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_an_error_keeps_its_status_and_body_whatever_its_compression_is(make, serve, clock, own):
    page = b'{"error_code": "NOT_NOW", "message": "come back"}'
    packed = gzip.compress(page)
    for body in (page, packed[:-4], b"\x1f\x8b" + b"\xff" * 40):
        server = serve(lambda peer, body=body: compressed_error(peer, body), keep_answering)
        async with make(server.host, engine=own, retry=ONCE) as client:
            with pytest.raises(dbllm.InternalServerError) as caught:
                await clock.on(client).request("POST", "/x", json={})
        assert caught.value.status == 503
        assert caught.value.raw.body
        assert (caught.value.error_code == "NOT_NOW") is (body in (page, packed[:-4]))


def compressed_error(peer: Peer, body: bytes) -> None:
    peer.request()
    peer.send(head(503, len(body), content_encoding="gzip", connection="close") + body)


@pytest.mark.parametrize("own", [None, "httpx"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_error_of_the_body_has_the_bytes_that_came(make, serve, own, chunked):
    whole = gzip.compress(TEXT)
    for sent, kept in ((whole[:-4], TEXT), (b"plain text", b"plain text"), (whole[:4], whole[:4])):

        def broken(peer: Peer, sent: bytes = sent) -> None:
            peer.request()
            if chunked:
                start = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
                peer.send(start + chunk(sent) + b"0\r\n\r\n")
            else:
                peer.send(head(length=len(sent), content_encoding="gzip") + sent)

        async with make(serve(broken).host, retry=ONCE, engine=own) as client:
            with pytest.raises(dbllm.APIResponseError, match="decompressed") as caught:
                await client.request("GET", "/x")
            assert permits(client) == 0
        assert caught.value.raw.body == kept


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_a_bomb_over_a_connection_is_a_typed_error(make, serve, clock, own):
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b" " * STEP) for _ in range(100)) + packer.flush()
    server = serve(compressed("gzip", bomb))
    async with make(server.host, engine=own) as client:
        with pytest.raises(dbllm.APIResponseError, match="200 times") as caught:
            await clock.on(client).request("GET", "/x")
    assert len(server.requests) == 1
    assert caught.value.raw.body.startswith(b"   ")


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_thousands_of_codings_in_the_head_are_a_typed_error(make, serve, own):
    """Each is a layer, and layers are read by recursion."""
    coding = ",".join(["gzip"] * 5000)
    server = serve(compressed(coding, gzip.compress(b'"hello"')))
    async with make(server.host, retry=ONCE, engine=own) as client:
        with pytest.raises(dbllm.APIResponseError):
            await client.request("GET", "/x")
        assert permits(client) == 0


@pytest.mark.parametrize("own", [None, "httpx"])
async def test_no_package_that_httpx_finds_inflates_what_nobody_asked_for(make, serve, own, monkeypatch):
    """httpx knows zstd and br where their packages are installed, and inflates a whole piece at once."""

    class Inflating:
        def decode(self, data: bytes) -> bytes:
            return b" " * len(data) * 1000 + b'"inflated"'

        def flush(self) -> bytes:
            return b""

    for coding in ("br", "zstd"):
        monkeypatch.setitem(httpx._decoders.SUPPORTED_DECODERS, coding, Inflating)
        async with make(serve(compressed(coding, b'"as it came"')).host, retry=ONCE, engine=own) as client:
            assert await client.request("GET", "/x") == "as it came"


async def test_what_a_mock_has_decompressed_already_is_not_decompressed_again(make):
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, content=gzip.compress(b'"hello"'))

    async with make(transport=httpx.MockTransport(answer)) as client:
        assert await client.request("GET", "/x") == "hello"
