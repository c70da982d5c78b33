"""The secrets API: its limits, its words, and who may read what."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from support.plane import SECRETS, Plane

from dbllm.local.management.secrets import MAX_BYTES
from dbllm.local.model.llama import Engine
from dbllm.local.storage.store import opened


@pytest.fixture
def plane(engine: Engine) -> Plane:
    plane = Plane(engine)
    plane.do("POST", f"{SECRETS}/scopes/create", {"scope": "s"})
    return plane


def put(plane: Plane, key: str = "k", **value: Any) -> None:
    plane.do("POST", f"{SECRETS}/put", {"scope": "s", "key": key, **value})


def get(plane: Plane, key: str = "k") -> bytes:
    return b64decode(plane.do("GET", f"{SECRETS}/get?scope=s&key={key}")["value"])


def test_text_and_bytes_come_back_as_base64(plane: Plane) -> None:
    put(plane, string_value="grün")
    assert get(plane) == "grün".encode()
    put(plane, bytes_value=b64encode(b"\x00\xff").decode())
    assert get(plane) == b"\x00\xff"
    put(plane, string_value="")
    assert get(plane) == b""


def test_keys_are_listed_with_the_time_of_their_last_change_and_without_values(plane: Plane) -> None:
    put(plane, string_value="v")
    plane.at += 1
    put(plane, "other", string_value="v")
    at = int(plane.at * 1000)
    assert plane.do("GET", f"{SECRETS}/list?scope=s") == {
        "secrets": [{"key": "k", "last_updated_timestamp": at - 1000}, {"key": "other", "last_updated_timestamp": at}]
    }


def test_what_is_missing_is_named(plane: Plane) -> None:
    none = (404, "RESOURCE_DOES_NOT_EXIST")
    assert plane.refused("GET", f"{SECRETS}/get?scope=s&key=k") == (
        *none,
        "Secret does not exist with scope: s and key: k",
    )
    assert plane.refused("GET", f"{SECRETS}/get?scope=t&key=k")[:2] == none
    assert plane.refused("POST", f"{SECRETS}/delete", {"scope": "s", "key": "k"})[:2] == none
    assert plane.refused("POST", f"{SECRETS}/scopes/delete", {"scope": "t"})[:2] == none
    assert plane.refused("GET", f"{SECRETS}/acls/get?scope=s&principal=x")[:2] == none


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({}, "MALFORMED_REQUEST"),
        ({"string_value": "a", "bytes_value": "YQ=="}, "MALFORMED_REQUEST"),
        ({"bytes_value": "no base64!"}, "MALFORMED_REQUEST"),
        ({"string_value": 7}, "MALFORMED_REQUEST"),
        ({"string_value": "x" * (MAX_BYTES + 1)}, "INVALID_PARAMETER_VALUE"),
        ({"string_value": "a", "key": "with space"}, "INVALID_PARAMETER_VALUE"),
        ({"string_value": "a", "key": "x" * 129}, "INVALID_PARAMETER_VALUE"),
        ({"string_value": "a", "scope": "a/b"}, "INVALID_PARAMETER_VALUE"),
    ],
)
def test_what_cannot_be_kept_is_refused(plane: Plane, value: dict[str, Any], code: str) -> None:
    assert plane.refused("POST", f"{SECRETS}/put", {"scope": "s", "key": "k", **value})[:2] == (400, code)


def test_the_largest_value_is_kept(plane: Plane) -> None:
    put(plane, string_value="x" * MAX_BYTES)
    assert len(get(plane)) == MAX_BYTES


def test_a_scope_has_at_most_a_thousand_secrets_but_they_can_be_changed(plane: Plane) -> None:
    for number in range(1000):
        put(plane, f"k{number}", string_value="v")
    assert plane.refused("POST", f"{SECRETS}/put", {"scope": "s", "key": "one-more", "string_value": "v"})[:2] == (
        400,
        "RESOURCE_LIMIT_EXCEEDED",
    )
    put(plane, "k7", string_value="new")
    assert get(plane, "k7") == b"new"


def test_a_scope_is_made_once_and_goes_with_its_secrets(plane: Plane) -> None:
    assert plane.refused("POST", f"{SECRETS}/scopes/create", {"scope": "s"})[:2] == (400, "RESOURCE_ALREADY_EXISTS")
    put(plane, string_value="v")
    plane.do("POST", f"{SECRETS}/scopes/delete", {"scope": "s"})
    assert plane.do("GET", f"{SECRETS}/scopes/list") == {"scopes": []}
    plane.do("POST", f"{SECRETS}/scopes/create", {"scope": "s"})
    assert plane.do("GET", f"{SECRETS}/list?scope=s") == {"secrets": []}
    vault = {"scope": "t", "scope_backend_type": "AZURE_KEYVAULT"}
    assert plane.refused("POST", f"{SECRETS}/scopes/create", vault)[:2] == (400, "BAD_REQUEST")


def test_permissions_on_a_scope_are_enforced(plane: Plane) -> None:
    put(plane, string_value="v")
    bob = plane.somebody("bob@example.com")
    read, write = f"{SECRETS}/get?scope=s&key=k", {"scope": "s", "key": "k", "string_value": "w"}

    def allowed() -> list[bool]:
        answers = [
            plane.answer("GET", read, token=bob),
            plane.answer("POST", f"{SECRETS}/put", write, bob),
            plane.answer("GET", f"{SECRETS}/acls/list?scope=s", token=bob),
        ]
        assert {answer.status_code for answer in answers} <= {200, 403}
        return [answer.status_code == 200 for answer in answers]

    assert allowed() == [False, False, False]
    assert plane.do("GET", f"{SECRETS}/scopes/list", token=bob) == {"scopes": []}
    for level, expected in (("READ", [1, 0, 0]), ("WRITE", [1, 1, 0]), ("MANAGE", [1, 1, 1])):
        plane.do("POST", f"{SECRETS}/acls/put", {"scope": "s", "principal": "bob@example.com", "permission": level})
        assert allowed() == expected
    assert plane.do("GET", f"{SECRETS}/acls/get?scope=s&principal=bob@example.com")["permission"] == "MANAGE"
    plane.do("POST", f"{SECRETS}/acls/delete", {"scope": "s", "principal": "bob@example.com"})
    assert allowed() == [False, False, False]
    plane.do("POST", f"{SECRETS}/acls/put", {"scope": "s", "principal": "users", "permission": "READ"})
    assert allowed() == [True, False, False]


def test_a_scope_for_all_users(plane: Plane) -> None:
    plane.do("POST", f"{SECRETS}/scopes/create", {"scope": "open", "initial_manage_principal": "users"})
    bob = plane.somebody("bob@example.com")
    plane.do("POST", f"{SECRETS}/put", {"scope": "open", "key": "k", "string_value": "v"}, bob)
    items = plane.do("GET", f"{SECRETS}/acls/list?scope=open")["items"]
    assert items == [{"principal": "users", "permission": "MANAGE"}]


def test_secrets_and_permissions_are_there_after_a_restart(engine: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, {}) as store:
        plane = Plane(engine, store)
        plane.do("POST", f"{SECRETS}/scopes/create", {"scope": "s"})
        put(plane, string_value="v")
        bob = plane.somebody("bob@example.com")
        plane.do("POST", f"{SECRETS}/acls/put", {"scope": "s", "principal": "bob@example.com", "permission": "READ"})
    with opened(tmp_path, {}) as store:
        plane = Plane(engine, store)
        assert get(plane) == b"v"
        assert plane.answer("GET", f"{SECRETS}/get?scope=s&key=k", token=bob).status_code == 200
