"""`client.endpoints`, at the wire: what is sent, what is made of the answers, and how an endpoint is awaited."""

from __future__ import annotations

import inspect
import json
import logging
from typing import Any

import httpx
import pytest
import respx

from dbllm import APIError, APIResponseError, APITimeoutError, ConfigError, ConflictError, NotFoundError, Retry
from dbllm._management.endpoints import AsyncEndpoints, Endpoints, ServingEndpoint

ALL = "/api/2.0/serving-endpoints"
ONE = f"{ALL}/my-chat"
PERMISSIONS = "/api/2.0/permissions/serving-endpoints/e1"
CONFIG = {
    "served_entities": [
        {
            "name": "my-chat",
            "external_model": {
                "name": "gpt-4",
                "provider": "openai",
                "task": "llm/v1/chat",
                "openai_config": {"openai_api_key": "{{secrets/s/k}}"},
            },
        }
    ]
}


def endpoint(ready: str = "READY", update: str = "NOT_UPDATING", **fields: Any) -> dict[str, Any]:
    state = {"ready": ready, "config_update": update}
    return {"name": "my-chat", "id": "e1", "task": "llm/v1/chat", "state": state, "config": CONFIG, **fields}


def entity(deployment: str, message: str = "", name: str = "my-chat") -> dict[str, Any]:
    state = {"deployment": deployment, "deployment_state_message": message}
    return {"served_entities": [{"name": name, "state": state}]}


def body(route: respx.Route, place: int = -1) -> Any:
    return json.loads(route.calls[place].request.content)


class TestMaking:
    async def test_create_sends_name_config_and_what_else_is_given(self, make: Any, wire: respx.MockRouter) -> None:
        route = wire.post(ALL).respond(json=endpoint("NOT_READY", "IN_PROGRESS"))
        async with make() as client:
            made = await client.endpoints.create(
                "my-chat",
                CONFIG,
                tags={"team": "x"},
                ai_gateway={"usage_tracking_config": {"enabled": True}},
                extra_body={"route_optimized": False, "new_field": 1},
            )
        assert isinstance(made, ServingEndpoint)
        assert (made.state.ready, made.is_ready) == ("NOT_READY", False)
        assert body(route) == {
            "name": "my-chat",
            "config": CONFIG,
            "tags": [{"key": "team", "value": "x"}],
            "ai_gateway": {"usage_tracking_config": {"enabled": True}},
            "route_optimized": False,
            "new_field": 1,
        }

    async def test_create_sends_nothing_that_was_not_given(self, make: Any, wire: respx.MockRouter) -> None:
        route = wire.post(ALL).respond(json=endpoint())
        async with make() as client:
            await client.endpoints.create("my-chat", CONFIG)
        assert set(body(route)) == {"name", "config"}

    @pytest.mark.parametrize("verb", ["create", "update_config"])
    async def test_an_external_model_that_cannot_work_is_never_sent(
        self, make: Any, wire: respx.MockRouter, verb: str
    ) -> None:
        bad = json.loads(json.dumps(CONFIG).replace("{{secrets/s/k}}", "sk-live-1234567"))
        async with make() as client:
            with pytest.raises(ConfigError, match="openai_api_key_plaintext") as caught:
                await getattr(client.endpoints, verb)("my-chat", bad)
        assert "sk-live" not in str(caught.value)
        assert not wire.calls

    async def test_a_name_that_is_taken_is_a_conflict(self, make: Any, wire: respx.MockRouter) -> None:
        refusal = {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "Endpoint with name 'my-chat' already exists."}
        wire.post(ALL).respond(409, json=refusal)
        async with make() as client:
            with pytest.raises(ConflictError, match="already exists"):
                await client.endpoints.create("my-chat", CONFIG)

    @pytest.mark.parametrize(
        ("lost", "hinted"), [(httpx.Response(502), True), (httpx.Response(503), True), (httpx.Response(429), False)]
    )
    async def test_a_name_taken_by_an_attempt_whose_answer_was_lost_says_so(
        self, make: Any, wire: respx.MockRouter, clock: Any, lost: Any, hinted: bool
    ) -> None:
        taken = httpx.Response(409, json={"error_code": "RESOURCE_ALREADY_EXISTS", "message": "It exists already."})
        wire.post(ALL).mock(side_effect=[lost, taken])
        async with make() as client:
            with pytest.raises(ConflictError, match="It exists already") as caught:
                await client.endpoints.create("my-chat", CONFIG)
        assert caught.value.attempts == 2
        assert ("An earlier attempt of this call" in caught.value.message) is hinted

    async def test_update_config_sends_the_config(self, make: Any, wire: respx.MockRouter) -> None:
        route = wire.put(f"{ONE}/config").respond(json=endpoint("READY", "IN_PROGRESS", pending_config=CONFIG))
        async with make() as client:
            changed = await client.endpoints.update_config("my-chat", CONFIG)
        assert body(route) == CONFIG
        assert changed.pending_config == CONFIG


class TestLooking:
    async def test_get_keeps_what_it_does_not_know(self, make: Any, wire: respx.MockRouter) -> None:
        wire.get(ONE).respond(json=endpoint(new_field={"a": 1}), headers={"x-request-id": "r1"})
        async with make() as client:
            found = await client.endpoints.get("my-chat")
        assert found.name == "my-chat"
        assert found.is_ready
        assert found.model_dump(exclude_unset=True) == endpoint(new_field={"a": 1})
        assert (found.request_id, found.attempts) == ("r1", 1)

    async def test_names_are_one_segment_of_the_path(self, make: Any, wire: respx.MockRouter) -> None:
        route = wire.get(path__regex=".*").respond(json=endpoint())
        async with make() as client:
            await client.endpoints.get("a/b?c")
            with pytest.raises(ConfigError):
                await client.endpoints.get("..")
        assert route.calls[0].request.url.raw_path == b"/api/2.0/serving-endpoints/a%2Fb%3Fc"

    @pytest.mark.parametrize("answer", [{}, {"endpoints": None}, {"endpoints": []}])
    async def test_a_workspace_without_endpoints_lists_none(
        self, make: Any, wire: respx.MockRouter, answer: dict[str, Any]
    ) -> None:
        wire.get(ALL).respond(json=answer)
        async with make() as client:
            assert await client.endpoints.list() == []

    async def test_list_gives_them_in_order(self, make: Any, wire: respx.MockRouter) -> None:
        wire.get(ALL).respond(json={"endpoints": [{"name": "b"}, endpoint()]})
        async with make() as client:
            listed = await client.endpoints.list()
            assert [found.name for found in listed] == ["b", "my-chat"]
            assert repr(listed).count("\n") == 1  # one endpoint a line
            assert "<table>" in listed._repr_html_()

    @pytest.mark.parametrize("answer", [[], "x", {"endpoints": "x"}, {"endpoints": [{"id": "e1"}]}, {"endpoints": [3]}])
    async def test_an_answer_of_another_shape_is_said_to_be_one(
        self, make: Any, wire: respx.MockRouter, answer: object
    ) -> None:
        wire.get(ALL).respond(json=answer)
        async with make() as client:
            with pytest.raises(APIResponseError) as caught:
                await client.endpoints.list()
        assert json.loads(caught.value.raw.body) == answer

    @pytest.mark.parametrize(
        ("verb", "given", "method", "path"),
        [
            ("get", (), "GET", ""),
            ("delete", (), "DELETE", ""),
            ("metrics", (), "GET", "/metrics"),
            ("update_config", (CONFIG,), "PUT", "/config"),
            ("wait_until_ready", (), "GET", ""),
        ],
    )
    async def test_an_unknown_endpoint_is_told_with_those_that_exist(
        self, make: Any, wire: respx.MockRouter, verb: str, given: tuple[Any, ...], method: str, path: str
    ) -> None:
        wire.request(method, f"{ALL}/my%20chat{path}").respond(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
        listed = wire.get(ALL).respond(json={"endpoints": [endpoint(), {"name": "other"}]})
        async with make() as client:
            with pytest.raises(NotFoundError, match=r"Did you mean 'my-chat'.*my-chat, other"):
                await getattr(client.endpoints, verb)("my chat", *given)
        assert listed.call_count == 1

    @pytest.mark.parametrize("answer", [httpx.Response(403), httpx.Response(200, text="<html>")])
    async def test_a_list_that_cannot_be_had_leaves_the_error_as_it_is(
        self, make: Any, wire: respx.MockRouter, answer: httpx.Response
    ) -> None:
        wire.get(ONE).respond(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"})
        wire.get(ALL).mock(return_value=answer)
        async with make() as client:
            with pytest.raises(NotFoundError, match=r"gone\. Check the name"):
                await client.endpoints.get("my-chat")


class TestChanging:
    async def test_tags_are_added_and_deleted(self, make: Any, wire: respx.MockRouter) -> None:
        route = wire.patch(f"{ONE}/tags").respond(json={"tags": [{"key": "team", "value": "x"}, {"key": "bare"}]})
        async with make() as client:
            assert await client.endpoints.update_tags("my-chat", {"team": "x"}, ["old"]) == {"team": "x", "bare": ""}
        assert body(route) == {"add_tags": [{"key": "team", "value": "x"}], "delete_tags": ["old"]}

    async def test_rate_limits_are_replaced(self, make: Any, wire: respx.MockRouter) -> None:
        limits = [{"calls": 10, "key": "user", "renewal_period": "minute"}]
        route = wire.put(f"{ONE}/rate-limits").respond(json={"rate_limits": limits})
        async with make() as client:
            assert await client.endpoints.set_rate_limits("my-chat", limits) == limits
        assert body(route) == {"rate_limits": limits}

    async def test_the_ai_gateway_is_replaced(self, make: Any, wire: respx.MockRouter) -> None:
        gateway = {"fallback_config": {"enabled": True}}
        route = wire.put(f"{ONE}/ai-gateway").respond(json=gateway)
        async with make() as client:
            assert await client.endpoints.set_ai_gateway("my-chat", gateway) == gateway
        assert body(route) == gateway

    @pytest.mark.parametrize("answer", [b"", b"{}"])
    async def test_delete_takes_an_empty_answer(self, make: Any, wire: respx.MockRouter, answer: bytes) -> None:
        route = wire.delete(ONE).respond(content=answer)
        async with make() as client:
            assert await client.endpoints.delete("my-chat") is None
        assert route.called


class TestPermissions:
    ACCESS = [{"user_name": "a@example.com", "permission_level": "CAN_QUERY"}]
    HELD = [{"user_name": "a@example.com", "all_permissions": [{"permission_level": "CAN_QUERY", "inherited": False}]}]

    @pytest.mark.parametrize(
        ("verb", "method"), [("permissions", "GET"), ("set_permissions", "PUT"), ("update_permissions", "PATCH")]
    )
    async def test_they_go_by_the_endpoints_id(self, make: Any, wire: respx.MockRouter, verb: str, method: str) -> None:
        wire.get(ONE).respond(json=endpoint())
        route = wire.route(method=method, path=PERMISSIONS).respond(
            json={"object_type": "serving-endpoint", "access_control_list": self.HELD}
        )
        given = () if method == "GET" else (self.ACCESS,)
        async with make() as client:
            assert await getattr(client.endpoints, verb)("my-chat", *given) == self.HELD
        if given:
            assert body(route) == {"access_control_list": self.ACCESS}

    async def test_the_levels_can_be_asked_for(self, make: Any, wire: respx.MockRouter) -> None:
        levels = [{"permission_level": "CAN_QUERY", "description": "Can query"}]
        wire.get(ONE).respond(json=endpoint())
        wire.get(f"{PERMISSIONS}/permissionLevels").respond(json={"permission_levels": levels})
        async with make() as client:
            assert await client.endpoints.permission_levels("my-chat") == levels


class TestWatching:
    @pytest.mark.parametrize(("verb", "path"), [("logs", "logs"), ("build_logs", "build-logs")])
    async def test_logs_of_a_served_entity(self, make: Any, wire: respx.MockRouter, verb: str, path: str) -> None:
        wire.get(f"{ONE}/served-models/a/{path}").respond(json={"logs": "one\ntwo"})
        async with make() as client:
            assert await getattr(client.endpoints, verb)("my-chat", "a") == "one\ntwo"

    async def test_logs_of_the_only_entity_need_no_name(self, make: Any, wire: respx.MockRouter) -> None:
        wire.get(ONE).respond(json=endpoint(pending_config=CONFIG))
        wire.get(f"{ONE}/served-models/my-chat/logs").respond(json={"logs": "one"})
        async with make() as client:
            assert await client.endpoints.logs("my-chat") == "one"

    async def test_of_several_entities_one_has_to_be_named(self, make: Any, wire: respx.MockRouter) -> None:
        several = {"served_entities": [{"name": "a"}, {"name": "b"}]}
        wire.get(ONE).respond(json=endpoint(config=several))
        async with make() as client:
            with pytest.raises(ConfigError, match="a and b"):
                await client.endpoints.logs("my-chat")

    async def test_metrics_are_text_as_it_came(self, make: Any, wire: respx.MockRouter) -> None:
        text = '# HELP requests\nrequest_count{endpoint="my-chat"} 3\n'
        route = wire.get(f"{ONE}/metrics").respond(text=text)
        async with make() as client:
            assert await client.endpoints.metrics("my-chat") == text
        assert route.calls[0].request.headers["accept"] == "text/plain"

    async def test_openapi_is_a_document(self, make: Any, wire: respx.MockRouter) -> None:
        wire.get(f"{ONE}/openapi").respond(text='{"openapi": "3.1.0"}')
        async with make() as client:
            assert await client.endpoints.openapi("my-chat") == {"openapi": "3.1.0"}


def states(wire: respx.MockRouter, *answers: dict[str, Any]) -> respx.Route:
    """What looks at the endpoint see, one after another; the last one for all that follow."""
    left = list(answers)
    return wire.get(ONE).mock(side_effect=lambda _: httpx.Response(200, json=left.pop(0) if len(left) > 1 else left[0]))


class TestWaiting:
    async def test_it_waits_for_ready_and_not_updating(self, make: Any, wire: respx.MockRouter, clock: Any) -> None:
        route = states(
            wire,
            endpoint("NOT_READY", "IN_PROGRESS"),
            endpoint("READY", "IN_PROGRESS"),
            endpoint("NOT_READY", "NOT_UPDATING"),
            endpoint(),
        )
        async with clock.on(make()) as client:
            found = await client.endpoints.wait_until_ready("my-chat")
        assert found.is_ready
        assert route.call_count == 4
        assert clock.waits == [0.5, 1.0, 2.0]

    async def test_the_pauses_grow_to_ten_seconds(self, make: Any, wire: respx.MockRouter, clock: Any) -> None:
        states(wire, *[endpoint("NOT_READY", "IN_PROGRESS")] * 8, endpoint())
        async with clock.on(make()) as client:
            await client.endpoints.wait_until_ready("my-chat")
        assert clock.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]

    @pytest.mark.parametrize("seconds", [0.2, 3, 20, 100])
    async def test_it_gives_up_before_its_time_is_over(
        self, make: Any, wire: respx.MockRouter, clock: Any, seconds: float
    ) -> None:
        route = states(
            wire, endpoint("NOT_READY", "IN_PROGRESS", pending_config=entity("DEPLOYMENT_CREATING", "loading weights"))
        )
        async with clock.on(make()) as client:
            began = clock.time
            with pytest.raises(APITimeoutError) as caught:
                await client.endpoints.wait_until_ready("my-chat", timeout=seconds)
        assert clock.time - began <= seconds
        assert seconds < 1 or clock.time - began >= seconds - 1
        assert route.call_count == len(clock.waits) + 1
        for word in ("'my-chat'", "NOT_READY/IN_PROGRESS", "DEPLOYMENT_CREATING", "loading weights", "timeout="):
            assert word in str(caught.value)

    @pytest.mark.parametrize("code", ["UPDATE_FAILED", "UPDATE_CANCELED"])
    @pytest.mark.parametrize("where", ["config", "pending_config"])
    async def test_a_failure_names_the_entity_and_says_why(
        self, make: Any, wire: respx.MockRouter, clock: Any, code: str, where: str
    ) -> None:
        failed = entity("DEPLOYMENT_FAILED", "no such model version", "big")
        states(wire, endpoint("NOT_READY", "IN_PROGRESS"), endpoint("NOT_READY", code, **{where: failed}))
        async with clock.on(make()) as client:
            with pytest.raises(APIError) as caught:
                await client.endpoints.wait_until_ready("my-chat")
        error = caught.value
        assert not isinstance(error, APITimeoutError)
        assert error.error_code == code
        for word in ("'my-chat'", "'big' is DEPLOYMENT_FAILED", "no such model version", "build_logs"):
            assert word in str(error)
        assert "goes on" not in str(error)

    async def test_a_failed_update_says_that_the_old_config_serves(
        self, make: Any, wire: respx.MockRouter, clock: Any
    ) -> None:
        states(wire, endpoint("READY", "UPDATE_FAILED"))
        async with clock.on(make()) as client:
            with pytest.raises(APIError, match="still serves its old config"):
                await client.endpoints.wait_until_ready("my-chat")

    @pytest.mark.parametrize("verb", ["create", "update_config"])
    async def test_making_and_changing_can_wait(self, make: Any, wire: respx.MockRouter, clock: Any, verb: str) -> None:
        first = endpoint("NOT_READY", "IN_PROGRESS")
        wire.post(ALL).respond(json=first)
        wire.put(f"{ONE}/config").respond(json=first)
        route = states(wire, first, endpoint())
        async with clock.on(make()) as client:
            found = await getattr(client.endpoints, verb)("my-chat", CONFIG, wait=True)
            assert found.is_ready
            assert route.call_count == 2
            assert await getattr(client.endpoints, verb)("my-chat", CONFIG) != found

    async def test_one_deadline_is_for_making_and_waiting(self, make: Any, wire: respx.MockRouter, clock: Any) -> None:
        busy = endpoint("NOT_READY", "IN_PROGRESS")

        def slow(_: httpx.Request) -> httpx.Response:
            clock.time += 8
            return httpx.Response(200, json=busy)

        wire.post(ALL).mock(side_effect=slow)
        states(wire, busy)
        async with clock.on(make()) as client:
            began = clock.time
            with pytest.raises(APITimeoutError):
                await client.endpoints.create("my-chat", CONFIG, wait=True, timeout=10)
        assert 9 <= clock.time - began <= 10

    async def test_a_look_that_fails_ends_the_waiting(self, make: Any, wire: respx.MockRouter, clock: Any) -> None:
        wire.get(ONE).respond(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"})
        wire.get(ALL).respond(json={"endpoints": []})
        async with clock.on(make(retry=Retry(attempts=1))) as client:
            with pytest.raises(NotFoundError):
                await client.endpoints.wait_until_ready("my-chat")

    @pytest.mark.parametrize("seconds", [0, -1, float("nan")])
    async def test_a_time_that_is_none_is_refused(self, make: Any, wire: respx.MockRouter, seconds: float) -> None:
        async with make() as client:
            with pytest.raises(ValueError, match="seconds"):
                await client.endpoints.wait_until_ready("my-chat", timeout=seconds)
        assert not wire.calls


class TestBothColours:
    async def test_the_options_of_the_client_hold(self, make: Any, wire: respx.MockRouter) -> None:
        route = wire.get(ALL).respond(503, json={})
        async with make() as client:
            once = client.with_options(retry=Retry(attempts=1), headers={"x-team": "t"})
            with pytest.raises(APIError):
                await once.endpoints.list()
        assert route.call_count == 1
        assert route.calls[0].request.headers["x-team"] == "t"

    def test_they_have_the_same_verbs(self) -> None:
        verbs = {name for name in vars(AsyncEndpoints) if not name.startswith("_")}
        assert verbs == {name for name in vars(Endpoints) if not name.startswith("_")}
        for name in verbs:
            assert inspect.iscoroutinefunction(getattr(AsyncEndpoints, name))
            assert inspect.getdoc(getattr(Endpoints, name))

    def test_a_repr_names_the_workspace_only(self, make: Any) -> None:
        shown = repr(make().endpoints)
        assert "workspace.example.com" in shown
        assert "dapi" not in shown

    async def test_a_plain_key_is_neither_logged_nor_shown(
        self, make: Any, wire: respx.MockRouter, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        plain = json.loads(json.dumps(CONFIG).replace('openai_api_key"', 'openai_api_key_plaintext"'))
        plain = json.loads(json.dumps(plain).replace("{{secrets/s/k}}", "sk-live-1234567"))
        wire.post(ALL).respond(400, json={"error_code": "INVALID_PARAMETER_VALUE", "message": "no"})
        async with make() as client:
            with pytest.raises(APIError) as caught:
                await client.endpoints.create("my-chat", plain)
        assert "sk-live" not in f"{caught.value!r} {caught.value} {caplog.text}"

    async def test_a_plain_key_that_the_workspace_repeats_is_taken_out_of_its_refusal(
        self, make: Any, wire: respx.MockRouter
    ) -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            return httpx.Response(400, json={"error_code": "MALFORMED_REQUEST", "message": request.content.decode()})

        plain = json.loads(json.dumps(CONFIG).replace('openai_api_key"', 'openai_api_key_plaintext"'))
        plain = json.loads(json.dumps(plain).replace("{{secrets/s/k}}", 'sk-live-1234567\\"\\n'))
        wire.post(ALL).mock(side_effect=refuse)
        wire.put(f"{ONE}/config").mock(side_effect=refuse)
        async with make() as client:
            for verb in ("create", "update_config"):
                with pytest.raises(APIError, match="MALFORMED_REQUEST") as caught:
                    await getattr(client.endpoints, verb)("my-chat", plain)
                shown = f"{caught.value!r} {caught.value} {caught.value.raw} {vars(caught.value)}"
                assert "1234567" not in shown
                assert caught.value.raw.body == b""
