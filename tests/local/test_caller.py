from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from dbllm.local.errors import Problem
from dbllm.local.http.caller import check_host, check_origin, is_json


def allowed(method: str, **headers: str) -> bool:
    named = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    try:
        check_origin(method, named)
    except Problem as problem:
        return problem.status != 403
    return True


def test_programs_and_pages_of_this_machine_may_call() -> None:
    assert allowed("POST")
    for origin in ("http://127.0.0.1:5173", "http://localhost:3000", "https://[::1]:1", "http://app.localhost"):
        assert allowed("POST", origin=origin, sec_fetch_site="cross-site"), origin
    assert allowed("POST", origin="https://models.example:8765", host="models.example:8765")
    assert allowed("POST", sec_fetch_site="same-origin")
    assert allowed("POST", sec_fetch_site="none")
    assert allowed("GET", sec_fetch_site="cross-site")  # a link: it reads nothing that the page would see


def test_pages_of_others_may_not() -> None:
    for origin in (
        "http://evil.example",
        "https://evil.example:7777",
        "null",
        "",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://evil.example#127.0.0.1",
        "http://[bad",
        "chrome-extension://abcdef",
    ):
        for method in ("GET", "POST", "OPTIONS"):
            assert not allowed(method, origin=origin, host="127.0.0.1:7777"), (method, origin)
    for site in ("cross-site", "same-site"):
        assert not allowed("POST", sec_fetch_site=site)


def test_of_two_origins_none_may_be_foreign() -> None:
    headers = Headers(raw=[(b"origin", b"http://127.0.0.1"), (b"origin", b"http://evil.example")])
    with pytest.raises(Problem, match="evil"):
        check_origin("POST", headers)


def test_a_name_of_this_machine_is_wanted_where_nothing_else_protects() -> None:
    for host in ("127.0.0.1:7777", "localhost", "LOCALHOST:1", "[::1]:7777", "127.1.2.3", ""):
        check_host(Headers({"host": host}))
    check_host(Headers())  # HTTP/1.0
    for host in (
        "evil.example:7777",
        "127.0.0.1.evil.example",
        "192.168.1.2:7777",
        "0.0.0.0:7777",
        "user@evil.example",
    ):
        with pytest.raises(Problem, match="does not name this machine") as caught:
            check_host(Headers({"host": host}))
        assert caught.value.status == 403


def test_json_is_known_by_its_content_type() -> None:
    table = {
        "application/json": True,
        "Application/JSON; charset=UTF-8": True,
        'application/json;charset="utf-8"': True,
        "application/vnd.api+json": True,
        "application/json; charset=latin-1": False,
        "text/plain": False,
        "text/plain; application/json": False,
        "text/json+json": False,
        "application/x-www-form-urlencoded": False,
        "multipart/form-data; boundary=x": False,
        "": False,
    }
    assert {kind: is_json(kind) for kind in table} == table
