"""`client.secrets`, at the wire: what is sent, what is made of the answers, and that no value is shown."""

from __future__ import annotations

import base64
import inspect
import json
import logging
import pickle
import traceback
from typing import Any

import httpx
import pytest
import respx

from dbllm import APIResponseError, APIStatusError, NotFoundError
from dbllm._management.secrets import AsyncSecrets, Secrets

API = "/api/2.0/secrets"
VALUE = "s3cr3t-välue"


def body(route: respx.Route) -> Any:
    return json.loads(route.calls[-1].request.content)


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


class TestScopes:
    @pytest.mark.parametrize(
        ("given", "sent"),
        [
            ({}, {}),
            ({"initial_manage_principal": "users"}, {"initial_manage_principal": "users"}),
            (
                {"azure_keyvault": {"resource_id": "r", "dns_name": "d"}},
                {
                    "scope_backend_type": "AZURE_KEYVAULT",
                    "backend_azure_keyvault": {"resource_id": "r", "dns_name": "d"},
                },
            ),
        ],
    )
    async def test_create(self, make: Any, wire: respx.MockRouter, given: dict[str, Any], sent: dict[str, Any]) -> None:
        route = wire.post(f"{API}/scopes/create").respond(json={})
        async with make() as client:
            assert await client.secrets.create_scope("s", **given) is None
        assert body(route) == {"scope": "s", **sent}

    async def test_list(self, make: Any, wire: respx.MockRouter) -> None:
        scopes = [{"name": "a", "backend_type": "DATABRICKS"}, {"name": "b", "new": 1}]
        wire.get(f"{API}/scopes/list").respond(json={"scopes": scopes})
        async with make() as client:
            found = await client.secrets.list_scopes()
        assert [(scope.name, scope.backend_type) for scope in found] == [("a", "DATABRICKS"), ("b", None)]
        assert [scope.model_dump(exclude_unset=True) for scope in found] == scopes

    async def test_delete(self, make: Any, wire: respx.MockRouter) -> None:
        route = wire.post(f"{API}/scopes/delete").respond(content=b"")
        async with make() as client:
            assert await client.secrets.delete_scope("s") is None
        assert body(route) == {"scope": "s"}


class TestValues:
    @pytest.mark.parametrize(
        ("value", "sent"),
        [
            (VALUE, {"string_value": VALUE}),
            ("", {"string_value": ""}),
            (b"\x00\xff", {"bytes_value": encoded(b"\x00\xff")}),
        ],
    )
    async def test_text_and_bytes_are_sent_as_what_they_are(
        self, make: Any, wire: respx.MockRouter, value: str | bytes, sent: dict[str, str]
    ) -> None:
        route = wire.post(f"{API}/put").respond(json={})
        async with make() as client:
            assert await client.secrets.put("s", "k", value) is None
        assert body(route) == {"scope": "s", "key": "k", **sent}

    @pytest.mark.parametrize("value", [None, 7, ["x"], {"x": "y"}, bytearray(b"x")])
    async def test_nothing_else_is_a_secret(self, make: Any, wire: respx.MockRouter, value: object) -> None:
        async with make() as client:
            with pytest.raises(TypeError, match="str or bytes"):
                await client.secrets.put("s", "k", value)
        assert not wire.calls

    @pytest.mark.parametrize("value", [b"", b"v", VALUE.encode(), "日本\n".encode()])
    async def test_get_gives_the_text_and_get_bytes_the_bytes(
        self, make: Any, wire: respx.MockRouter, value: bytes
    ) -> None:
        route = wire.get(f"{API}/get").respond(json={"key": "k", "value": encoded(value)})
        async with make() as client:
            assert await client.secrets.get("a b", "k&c") == value.decode()
            assert await client.secrets.get_bytes("a b", "k&c") == value
        assert dict(route.calls[0].request.url.params) == {"scope": "a b", "key": "k&c"}

    async def test_what_is_no_text_is_read_as_bytes(self, make: Any, wire: respx.MockRouter) -> None:
        wire.get(f"{API}/get").respond(json={"key": "k", "value": encoded(b"\xff\xfe")})
        async with make() as client:
            with pytest.raises(APIResponseError, match=r"get_bytes\(\)"):
                await client.secrets.get("s", "k")
            assert await client.secrets.get_bytes("s", "k") == b"\xff\xfe"

    async def test_what_does_not_exist_is_not_found(self, make: Any, wire: respx.MockRouter) -> None:
        message = "Secret does not exist with scope: s and key: k"
        wire.get(f"{API}/get").respond(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": message})
        async with make() as client:
            with pytest.raises(NotFoundError, match="scope: s and key: k"):
                await client.secrets.get("s", "k")

    @pytest.mark.parametrize("answer", [{}, {"secrets": []}])
    async def test_an_empty_scope_lists_nothing(
        self, make: Any, wire: respx.MockRouter, answer: dict[str, Any]
    ) -> None:
        wire.get(f"{API}/list").respond(json=answer)
        async with make() as client:
            assert await client.secrets.list("s") == []

    async def test_list_tells_keys_and_times(self, make: Any, wire: respx.MockRouter) -> None:
        secrets = [{"key": "k", "last_updated_timestamp": 1520467595000}]
        route = wire.get(f"{API}/list", params={"scope": "s"}).respond(json={"secrets": secrets})
        async with make() as client:
            (found,) = await client.secrets.list("s")
        assert (found.key, found.last_updated_timestamp) == ("k", 1520467595000)
        assert route.called

    async def test_delete(self, make: Any, wire: respx.MockRouter) -> None:
        route = wire.post(f"{API}/delete").respond(json={})
        async with make() as client:
            assert await client.secrets.delete("s", "k") is None
        assert body(route) == {"scope": "s", "key": "k"}


class TestAcls:
    async def test_put_and_delete(self, make: Any, wire: respx.MockRouter) -> None:
        put, delete = (wire.post(f"{API}/acls/{verb}").respond(json={}) for verb in ("put", "delete"))
        async with make() as client:
            assert await client.secrets.put_acl("s", "users", "READ") is None
            assert await client.secrets.delete_acl("s", "users") is None
        assert body(put) == {"scope": "s", "principal": "users", "permission": "READ"}
        assert body(delete) == {"scope": "s", "principal": "users"}

    async def test_get_and_list(self, make: Any, wire: respx.MockRouter) -> None:
        held = {"principal": "users", "permission": "READ"}
        wire.get(f"{API}/acls/get", params={"scope": "s", "principal": "users"}).respond(json=held)
        wire.get(f"{API}/acls/list", params={"scope": "s"}).respond(json={"items": [held]})
        async with make() as client:
            found = await client.secrets.get_acl("s", "users")
            assert (found.principal, found.permission) == ("users", "READ")
            listed = await client.secrets.list_acls("s")
        assert [acl.model_dump() for acl in listed] == [held]


def everything(error: BaseException) -> str:
    """All that is shown of an error: itself, its causes and contexts, and what a pickle of it holds."""
    shown = [repr(error), "".join(traceback.format_exception(error)), repr(pickle.dumps(error))]
    for link in (error.__cause__, error.__context__):
        shown += [everything(link)] if link is not None else []
    return " ".join(shown)


class TestSecrecy:
    @pytest.mark.parametrize("value", [encoded(b"\xff" + VALUE.encode()), VALUE, VALUE[:7], 7])
    async def test_an_answer_that_cannot_be_read_is_not_shown(
        self, make: Any, wire: respx.MockRouter, caplog: pytest.LogCaptureFixture, value: object
    ) -> None:
        caplog.set_level(logging.DEBUG)
        wire.get(f"{API}/get").respond(json={"key": "k", "value": value})
        async with make() as client:
            with pytest.raises(APIResponseError) as caught:
                await client.secrets.get("s", "k")
        shown = everything(caught.value) + caplog.text
        assert VALUE[:6] not in shown
        assert encoded(VALUE.encode())[2:10] not in shown

    async def test_a_value_is_neither_logged_nor_in_an_error(
        self, make: Any, wire: respx.MockRouter, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        wire.post(f"{API}/put").respond(400, json={"error_code": "RESOURCE_LIMIT_EXCEEDED", "message": "too long"})
        async with make() as client:
            with pytest.raises(APIStatusError) as caught:
                await client.secrets.put("s", "k", VALUE)
        assert VALUE not in everything(caught.value) + caplog.text

    async def test_a_value_that_the_workspace_repeats_is_taken_out_of_its_refusal(
        self, make: Any, wire: respx.MockRouter
    ) -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            return httpx.Response(400, json={"error_code": "MALFORMED_REQUEST", "message": request.content.decode()})

        wire.post(f"{API}/put").mock(side_effect=refuse)
        async with make() as client:
            for value in (VALUE, f'{VALUE}"\n', b"\xff" + VALUE.encode()):
                with pytest.raises(APIStatusError) as caught:
                    await client.secrets.put("s", "k", value)
                shown = everything(caught.value)
                assert VALUE[:6] not in shown
                assert encoded(b"\xff" + VALUE.encode())[2:10] not in shown
                assert "MALFORMED_REQUEST" in shown

    async def test_a_part_of_a_value_that_the_workspace_repeats_is_taken_out_of_its_refusal(
        self, make: Any, wire: respx.MockRouter
    ) -> None:
        value = "firstpart-secondpart"
        said = {"error_code": "MALFORMED_REQUEST", "message": "what begins with firstpart is no key"}
        wire.post(f"{API}/put").respond(400, json=said)
        async with make() as client:
            with pytest.raises(APIStatusError) as caught:
                await client.secrets.put("s", "k", value)
        assert "firstpart" not in everything(caught.value)

    async def test_the_log_names_no_scope_and_no_key_of_a_read(
        self, make: Any, wire: respx.MockRouter, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "dbllm")
        wire.get(f"{API}/get").respond(json={"value": encoded(b"v")})
        async with make() as client:
            await client.secrets.get("scope-x", "key-x")
        assert "/api/2.0/secrets/get" in caplog.text
        assert "key-x" not in " ".join(record.getMessage() for record in caplog.records if record.name == "dbllm")


class TestBothColours:
    def test_they_have_the_same_verbs(self) -> None:
        verbs = {name for name in vars(AsyncSecrets) if not name.startswith("_")}
        assert verbs == {name for name in vars(Secrets) if not name.startswith("_")}
        for name in verbs:
            assert inspect.iscoroutinefunction(getattr(AsyncSecrets, name))
            assert inspect.getdoc(getattr(Secrets, name))
