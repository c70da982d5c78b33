"""The answers that a test has written, and which of them each request gets. It needs no server."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from dbllm.local.errors import no_such_api
from dbllm.testing.fault_plans import FAULT_STATUSES, FaultName, Mix, check_mix, plan_request
from dbllm.testing.journal import ModelCall, ModelCalls, visible_headers
from dbllm.testing.model_answers import Asked, answer_to, json_body, nonce_of
from dbllm.testing.resilience_faults import Hit
from dbllm.testing.scripted_answers import ScriptedAnswer
from dbllm.testing.virtual_clock import VirtualClock
from dbllm.testing.wire_answers import UnfitError, WireAnswer, forms_for, wire_answer
from dbllm.testing.wire_requests import target_of, wants_stream

NOT_SCRIPTED = 418
"""Status of the answer to a call that the test wrote no answer for: no client sends such a call again."""

_TASKS = {"vectors": "llm/v1/embeddings", "predictions": ""}
_SERVICES = "/api/2.1/unity-catalog/model-services"
_CALLS_OF_MODELS = ("/serving-endpoints/", "/ai-gateway/")
_KNOWN = ("/api/2.0/serving-endpoints", "/api/2.0/preview/scim/v2/Me", "/oidc/", "/.well-known/")
_MOST_TOLD = 3  # problems
_TYPES = ("chat/completions", "embeddings", "responses")


class Script:
    """Answers in the order in which they were written; safe to use from any thread."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}
        self.problems: list[str] = []
        self.clock: VirtualClock | None = None
        self.pause, self.seed = 0.2, 0
        self.mix: Mix = {}
        self._answers: list[tuple[ScriptedAnswer, int | None]] = []  # with how often each is still to be given
        self._written = 0
        self._seen: list[ModelCall] = []
        self._runs: dict[str, tuple[ModelCall, ScriptedAnswer]] = {}  # of agents, which a client may come back to
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._hit: Hit | None = None
        self._hits = 0
        self._now: Callable[[], float] = time.monotonic
        self._began = time.monotonic()

    def add(self, answer: ScriptedAnswer, times: int | None) -> None:
        """Write an answer; with `times=None` it is given to every call that has no other."""
        if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
            raise ValueError(f"times is a whole number from 1 up, or None for always, got {times!r}")
        with self._lock:
            self._written += times or 0
            self._answers.append((answer, times))

    @property
    def calls(self) -> ModelCalls:
        """The calls of models so far."""
        with self._lock:
            return ModelCalls(tuple(call for call in self._seen if call.kind != "other"))

    @property
    def requests(self) -> ModelCalls:
        """All requests so far."""
        with self._lock:
            return ModelCalls(tuple(self._seen))

    @property
    def left(self) -> list[str]:
        """The answers that no call has used."""
        with self._lock:
            return [f"{answer} ({times} of them)" if times > 1 else str(answer) for answer, times in self._unused()]

    def _unused(self) -> list[tuple[ScriptedAnswer, int]]:
        return [(answer, times) for answer, times in self._answers if times]

    def set_faults(self, mix: Mix, seed: int) -> None:
        """Let faults hit a share of the calls."""
        check_mix(mix)
        with self._lock:
            self.mix, self.seed = mix, seed
            self._counts.clear()

    def interfere(self, hit: Hit | None, now: Callable[[], float]) -> Callable[[], int]:
        """Let calls get other answers than those that are written, which they do not use up.

        Args:
            hit: makes the other answer, or None where the call is to get its own.
            now: the clock of the journal.

        Returns:
            How many calls were hit.
        """
        self._hit, self._now, self._began = hit, now, now()
        return lambda: self._hits

    def respond(self, asked: Asked, app: str = "", app_url: str = "") -> WireAnswer:
        """The answer to a request, which goes into the journal.

        Args:
            asked: the request.
            app: the app at whose own port it arrived.
            app_url: where the app is that it asks for.
        """
        body = json_body(asked)
        kind, endpoint = target_of(asked.method, asked.path, body, app)
        accept = asked.headers.get("accept", "")
        with self._lock:
            number = 1 + sum(call.kind != "other" for call in self._seen)
            call = ModelCall(number, kind, endpoint, asked.method, asked.path, visible_headers(asked.headers), body)
            call.stream = wants_stream(kind, body, accept)
            call.at = self.clock.seconds if self.clock is not None else self._now() - self._began
            self._seen.append(call)
            answer = None
            try:
                answer = self._next_answer(call)
                if kind == "other" and answer is None:
                    made = self._managed(call, asked, app_url)
                elif answer is None:
                    made = self._not_scripted(call)
                else:
                    made = self._made(call, answer, accept)
                    made = made if made.fault or made.status >= 400 else replace(made, fault=self._fault(asked, call))
            except Exception as error:  # noqa: BLE001 - of the test's own function, as a rule
                made = self._failed(call, error)
            call.fault = answer.fault if answer is not None and answer.fault else made.fault
            call.status = FAULT_STATUSES.get(made.fault, made.status) if made.fault else made.status
            return made

    def _next_answer(self, call: ModelCall) -> ScriptedAnswer | None:
        """The first answer that fits and is not used up; those that are given always come last.

        One of another form than the call asks for is taken where there is no other: it cannot be made, which is told.
        """
        fits = [place for place, (answer, times) in enumerate(self._answers) if times != 0 and _fits(answer, call)]
        fits = [place for place in fits if self._answers[place][0].form in forms_for(call.kind)] or fits
        for place in sorted(fits, key=lambda place: self._answers[place][1] is None):
            answer, times = self._answers[place]
            if self._hit is not None and (other := self._hit(call, answer, self._hits)) is not None:
                self._hits += 1
                return other
            if times is not None:
                self._answers[place] = answer, times - 1
            return answer
        return None

    def _made(self, call: ModelCall, answer: ScriptedAnswer, accept: str) -> WireAnswer:
        answer = replace(answer, serial=call.number)
        try:
            made = wire_answer(call.kind, call.body, accept, answer, pause=self.pause)
        except UnfitError as error:
            return self._refused(call, f"{error}: call {call.number}, {call}. Write the answer with another method.")
        if call.kind == "agent" and isinstance(call.body.get("id"), str) and made.status < 400:
            self._runs[call.body["id"]] = call, replace(answer, fault=None, first_token=0.0, tokens_per_second=None)
            if call.body.get("background"):
                where = f"/api/invocations/{call.body['id']}"
                begun = {
                    "id": call.body["id"],
                    "status": "queued",
                    "status_url": where,
                    "events_url": f"{where}/events",
                }
                return _rest_answer(begun, 202)
        return made

    def _fault(self, asked: Asked, call: ModelCall) -> FaultName | None:
        if not self.mix:
            return None
        nonce = nonce_of(asked, call.prompt or None)
        self._counts[nonce] += 1
        return plan_request(self.seed, nonce, self._counts[nonce], self.mix).fault

    def _failed(self, call: ModelCall, error: Exception) -> WireAnswer:
        """The answer that could not be chosen or made: the test gets the error, and where it was raised."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename}, line {place.lineno}"
        why = f"{type(error).__name__}: {error} ({where})"
        return self._refused(call, f"The answer to call {call.number}, {call}, could not be made: {why}.")

    def _not_scripted(self, call: ModelCall) -> WireAnswer:
        always = [str(answer) for answer, times in self._answers if times is None]
        unused = [str(answer) for answer, _ in self._unused()]
        if unused or always:
            why = f"none of the answers that are left is for it: {'; '.join(unused + always)}"
        else:
            count = f"{self._written} answer{'' if self._written == 1 else 's'}"
            why = f"the test wrote {count}, and the calls before used all of them"
            why = why if self._written else "the test wrote no answer"
        hint = "Write one more, as by scripted.reply(...), or let one be given always, with times=None."
        return self._refused(call, f"There is no answer for call {call.number}, {call}: {why}. {hint}")

    def told_problems(self) -> list[str]:
        """What makes the test fail; of many, the first."""
        most, more = self.problems[:_MOST_TOLD], len(self.problems) - _MOST_TOLD
        return [*most, f"… and {more} more calls."] if more > 0 else most

    def _refused(self, call: ModelCall, sentence: str) -> WireAnswer:
        self.problems.append(sentence)
        content: object = {"error_code": "NOT_SCRIPTED", "message": sentence}
        return _rest_answer({"detail": sentence} if call.kind == "agent" else content, NOT_SCRIPTED)

    def _managed(self, call: ModelCall, asked: Asked, app_url: str) -> WireAnswer:
        """The rest of a workspace: every endpoint, service and app exists, and is ready."""
        path = asked.path.partition("?")[0].rstrip("/")
        name = path.rpartition("/")[2]
        if asked.method == "GET" and "/api/invocations/" in path:
            return self._run(path)
        if asked.method == "GET" and path.startswith("/api/2.0/apps/"):
            app = {"name": name, "url": app_url, "app_status": {"state": "RUNNING"}}
            return _rest_answer(app)
        if asked.method == "GET" and path.startswith(f"{_SERVICES}/"):
            types = [f"mlflow/v1/{kind}" for kind in _TYPES]
            return _rest_answer({"name": f"model-services/{name}", "supported_api_types": types})
        if asked.method == "POST" and path.startswith(_CALLS_OF_MODELS):
            hint = f"scripted.json(..., endpoint={path!r}) answers it."
            return self._refused(call, f"Models are not scripted in the wire format of POST {path}: {hint}")
        if asked.method == "GET" and not path.startswith(_KNOWN):
            problem = no_such_api("GET", path)
            hint = f"; the test can answer it: scripted.json(..., endpoint={path!r})."
            return _rest_answer({**problem.body(), "message": problem.message + hint}, problem.status)
        made = answer_to(asked, {}, None)
        content = json.loads(made.pieces[0])
        if content.get("task") and (task := self._task(name)) != content["task"]:
            content["task"] = task
        return _rest_answer(content)

    def _task(self, endpoint: str) -> str:
        """What an endpoint speaks: as the test says, or as the answers look that are written for it, or for all.

        Only who wants a text asks for it, so where there is one for all, it is a chat.
        """
        if endpoint in self.tasks:
            return self.tasks[endpoint]
        left = [one for one, times in self._answers if times != 0]
        own = [one.form for one in left if one.endpoint == endpoint]
        others = [one.form for one in left if one.endpoint is None]
        forms = own or (["a text"] if "a text" in others else others)
        return _TASKS.get(forms[0] if forms else "", "llm/v1/chat")

    def _run(self, path: str) -> WireAnswer:
        """A run of an agent that was started before, or its events."""
        _, _, rest = path.partition("/api/invocations/")
        run_id, _, events = rest.partition("/")
        if run_id not in self._runs:
            return _rest_answer({"detail": "invocation not found"}, 404)
        call, answer = self._runs[run_id]
        body = {**call.body, "stream": events == "events"}
        return wire_answer("agent", body, "", answer)


def _fits(answer: ScriptedAnswer, call: ModelCall) -> bool:
    if call.kind == "other" and (answer.endpoint is None or answer.endpoint != call.path.partition("?")[0]):
        return False
    if answer.endpoint is not None and answer.endpoint not in (call.endpoint, call.path.partition("?")[0]):
        return False
    if answer.when is None:
        return True
    return answer.when in call.prompt if isinstance(answer.when, str) else bool(answer.when(call))


def _rest_answer(value: object, status: int = 200) -> WireAnswer:
    return WireAnswer(status, {"content-type": "application/json"}, json.dumps(value).encode())
