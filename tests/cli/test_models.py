"""The commands that call models, in-process against a real local workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbllm import Client, StreamInterruptedError
from dbllm.cli.conversation import Conversation
from dbllm.cli.models import read_param
from dbllm.local import Workspace

SHORT = ("--param", "max_tokens=12")


@pytest.mark.usefixtures("environ")
class TestComplete:
    def test_prints_the_text_and_nothing_else(self, run: Any) -> None:
        ended = run("complete", "dolly", "How are you?", *SHORT)
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.strip()
        assert "\x1b" not in ended.out

    def test_ends_before_the_stop(self, run: Any) -> None:
        arguments = ("complete", "dolly", "How are you?", "--param", "temperature=0", *SHORT)
        whole = run(*arguments).out.strip()
        stop = whole[4]
        assert run(*arguments, "--stop", stop).out == whole[: whole.index(stop)] + "\n"

    def test_the_pieces_of_a_stream_are_the_whole_text(self, run: Any) -> None:
        arguments = ("complete", "smollm2-completions", "How are you?", "--param", "temperature=0", *SHORT)
        assert run(*arguments, "--stream").out == run(*arguments, "--no-stream").out

    def test_a_prompt_can_come_from_stdin(self, run: Any) -> None:
        greedy = ("--param", "temperature=0", *SHORT)
        from_stdin = run("complete", "dolly", "-", *greedy, stdin="Grüße?\n".encode())
        assert from_stdin.out == run("complete", "dolly", "Grüße?", *greedy).out

    def test_json_is_one_object(self, run: Any) -> None:
        assert set(json.loads(run("complete", "dolly", "hi", "--json", *SHORT).out)) == {"text"}

    def test_json_of_a_stream_is_one_object_a_line(self, run: Any) -> None:
        lines = run("complete", "dolly", "hi", "--json", "--stream", *SHORT).out.splitlines()
        assert len(lines) > 1
        assert all(isinstance(json.loads(line), dict) for line in lines)

    @pytest.mark.parametrize("how", ["--stream", "--no-stream"])
    def test_a_driver_app_takes_the_place_of_an_endpoint(self, run: Any, app_port: int, how: str) -> None:
        ended = run("complete", "--app", str(app_port), "How are you?", how, *SHORT)
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.strip()

    def test_an_endpoint_and_an_app_are_one_too_many(self, run: Any) -> None:
        assert run("complete", "dolly", "How are you?", "--app", "7777").status == 2

    def test_a_pipe_is_read_without_being_asked_for(self, run: Any) -> None:
        assert run("complete", "dolly", "--max-tokens", "4", stdin=b"How are you?\n").out.strip()

    def test_a_missing_prompt_is_said_in_a_line(self, run: Any) -> None:
        ended = run("complete", "dolly")
        assert ended.status == 1
        assert "standard input is empty" in ended.err

    def test_a_parameter_with_a_name_of_its_own_is_given_once(self, run: Any) -> None:
        ended = run("complete", "dolly", "hi", "--max-tokens", "4", "--param", "max_tokens=5")
        assert ended.status == 2
        assert "twice" in ended.err


@pytest.mark.usefixtures("environ")
class TestChat:
    def test_prints_one_answer(self, run: Any) -> None:
        ended = run("chat", "smollm2-chat", "hello", *SHORT)
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.strip()

    def test_streamed_or_whole_the_answer_is_the_same(self, run: Any) -> None:
        arguments = ("chat", "smollm2-chat", "hello", "--system", "Be brief.", "--param", "temperature=0", *SHORT)
        assert run(*arguments).out == run(*arguments, "--no-stream").out

    def test_json_is_the_whole_completion(self, run: Any) -> None:
        answer = json.loads(run("chat", "smollm2-chat", "hello", "--json", *SHORT).out)
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["completion_tokens"] <= 12

    def test_json_of_a_stream_is_one_chunk_a_line(self, run: Any) -> None:
        lines = run("chat", "smollm2-chat", "hello", "--json", "--stream", *SHORT).out.splitlines()
        assert len(lines) > 1
        assert {json.loads(line)["object"] for line in lines} == {"chat.completion.chunk"}

    def test_a_pipe_is_read_without_being_asked_for(self, run: Any) -> None:
        assert run("chat", "smollm2-chat", "--max-tokens", "4", stdin=b"hello\n").out.strip()

    def test_without_a_message_and_a_terminal_it_says_what_to_do(self, run: Any) -> None:
        ended = run("chat", "smollm2-chat")
        assert ended.status == 1
        assert "Pipe text into it" in ended.err


class TestConversation:
    @staticmethod
    def talk(asked: list[Any], statuses: list[int], text: str = "") -> Conversation:
        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(json.loads(request.content)["messages"])
            message = {"role": "assistant", "content": text or f"answer {len(asked)}"}
            content = json.dumps({"choices": [{"index": 0, "message": message}]})
            return httpx.Response(statuses.pop(0), text=content, headers={"content-type": "application/json"})

        client = Client("http://127.0.0.1:1", "token", transport=httpx.MockTransport(answer))
        return Conversation(client.endpoint("any"), None, {}, stream=False, as_json=False)

    def test_every_question_is_sent_with_all_that_was_said(self) -> None:
        asked: list[Any] = []
        talk = self.talk(asked, [200, 200])
        talk.say("one")
        talk.say("two")
        said = [(message["role"], message["content"]) for message in asked[1]]
        assert said == [("user", "one"), ("assistant", "answer 1"), ("user", "two")]

    def test_a_question_that_failed_is_forgotten(self) -> None:
        asked: list[Any] = []
        talk = self.talk(asked, [200, 401, 200])
        talk.say("one")
        with pytest.raises(Exception, match="401"):
            talk.say("two")
        talk.say("three")
        assert [message["content"] for message in asked[-1]] == ["one", "answer 1", "three"]

    def test_an_answer_that_ends_in_half_a_character_can_be_answered(self) -> None:
        asked: list[Any] = []
        talk = self.talk(asked, [200, 200], "half \ud83d")
        talk.say("one")
        talk.say("two")
        assert asked[1][1]["content"] == "half \ufffd"

    def test_an_answer_that_breaks_off_is_shown_with_its_line_ended(self, capsys: pytest.CaptureFixture[str]) -> None:
        def answer(_request: httpx.Request) -> httpx.Response:
            chunk = {"choices": [{"index": 0, "delta": {"content": "Once upon"}}]}
            return httpx.Response(
                200, headers={"content-type": "text/event-stream"}, text=f"data: {json.dumps(chunk)}\n\n"
            )

        client = Client("http://127.0.0.1:1", "token", transport=httpx.MockTransport(answer))
        talk = Conversation(client.endpoint("any"), None, {}, stream=True, as_json=False)
        with pytest.raises(StreamInterruptedError):
            talk.say("Tell me a story.")
        assert capsys.readouterr().out == "Once upon\n"
        assert talk.history == []


@pytest.mark.usefixtures("environ")
class TestRespond:
    ARGUMENTS = ("hello", "--max-tokens", "6", "--temperature", "0")

    def test_streamed_or_whole_an_endpoint_s_answer_is_the_same(self, run: Any) -> None:
        streamed = run("respond", "smollm2-agent", *self.ARGUMENTS)
        assert (streamed.status, streamed.err) == (0, "")
        assert streamed.out.strip()
        assert run("respond", "smollm2-agent", *self.ARGUMENTS, "--no-stream").out == streamed.out
        whole = json.loads(run("respond", "smollm2-agent", *self.ARGUMENTS, "--json").out)
        assert (whole["object"], whole["max_output_tokens"]) == ("response", 6)
        events = run("respond", "smollm2-agent", *self.ARGUMENTS, "--json", "--stream").out.splitlines()
        assert json.loads(events[-1])["type"] == "response.incomplete"

    def test_an_app_is_asked_by_its_name_with_a_service_principal_s_token(
        self, run: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused = run("respond", "apps/smollm2-agent", "hello")
        assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
        assert "set DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET" in refused.err
        monkeypatch.delenv("DATABRICKS_TOKEN")
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", "principal-of-the-terminal")
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "secret-of-the-terminal")
        for options in ((), ("--no-stream",)):
            ended = run("respond", "apps/smollm2-agent", "hello", *options)
            assert (ended.status, ended.err) == (0, ""), ended
            assert ended.out.strip()

    def test_another_s_address_gets_no_token(self, run: Any) -> None:
        ended = run("respond", "https://agent.example.com", "hello")
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert "not an address of Databricks Apps" in ended.err
        assert "`dbllm respond apps/one`" in run("chat", "apps/one", "hello").err


def test_each_command_that_calls_a_model_takes_tags(run: Any, environ: dict[str, str]) -> None:
    few = ("--max-tokens", "1")
    for words in (
        ("complete", "dolly", "hi", *few),
        ("chat", "smollm2-chat", "hi", *few),
        ("respond", "smollm2-agent", "hi", *few),
        ("embed", "databricks-bge-large-en", "hi"),
        ("predict", "dolly", '[{"prompt": "hi"}]'),
    ):
        assert run(*words, "--tag", f"team={words[0]}", "--tag", "from=terminal").status == 0, words
    with Client() as client:
        listed = client.request("GET", "/api/local/request-tags")
    assert isinstance(listed, dict)
    found = {(one["name"], tag["key"], tag["value"]) for one in listed["endpoints"] for tag in one["tags"]}
    for name, command in (("dolly", "complete"), ("dolly", "predict"), ("smollm2-chat", "chat")):
        assert {(name, "team", command), (name, "from", "terminal")} <= found
    assert {("smollm2-agent", "team", "respond"), ("databricks-bge-large-en", "team", "embed")} <= found


@pytest.mark.usefixtures("environ")
class TestEmbed:
    def test_prints_one_vector_a_line_in_the_order_of_the_texts(self, run: Any) -> None:
        both = run("embed", "databricks-bge-large-en", "hello", "good morning").out.splitlines()
        alone = [run("embed", "databricks-bge-large-en", text).out.strip() for text in ("hello", "good morning")]
        assert both == alone
        assert len(json.loads(both[0])) == 256

    def test_texts_can_be_the_lines_of_stdin(self, run: Any) -> None:
        from_stdin = run("embed", "databricks-bge-large-en", stdin=b"hello\r\ngood morning\n")
        assert from_stdin.out == run("embed", "databricks-bge-large-en", "hello", "good morning").out


@pytest.mark.usefixtures("environ")
class TestPredict:
    BODY = '{"dataframe_records": [{"prompt": "hi"}, {"prompt": "ho"}], "params": {"max_tokens": 8, "temperature": 0}}'

    def test_prints_the_predictions_as_json(self, run: Any) -> None:
        assert len(json.loads(run("predict", "dolly", self.BODY).out)["predictions"]) == 2
        rows = json.dumps(json.loads(self.BODY)["dataframe_records"])  # as predict() of Python takes a list of dicts
        assert len(json.loads(run("predict", "dolly", rows).out)["predictions"]) == 2

    def test_the_body_can_come_from_stdin(self, run: Any) -> None:
        assert run("predict", "dolly", stdin=self.BODY.encode()).out == run("predict", "dolly", self.BODY).out

    @pytest.mark.parametrize(
        ("body", "word"), [("{", "JSON"), ("[1]", "object"), ('{"inputs": 1, "instances": 2}', "inputs")]
    )
    def test_what_is_no_request_is_refused_in_a_line(self, run: Any, body: str, word: str) -> None:
        ended = run("predict", "dolly", body)
        assert (ended.status, ended.out) == (1, "")
        assert word in ended.err
        assert ended.err.count("\n") == 1


class TestWhatGoesWrong:
    def test_an_unknown_endpoint_is_one_line_that_names_the_right_one(self, run: Any, environ: dict[str, str]) -> None:
        ended = run("complete", "dollly", "hi")
        assert (ended.status, ended.out) == (1, "")
        assert "'dolly'" in ended.err
        assert ended.err.count("\n") == 1
        assert ended.err.startswith("dbllm: ")

    def test_a_verb_that_the_endpoint_does_not_do_is_one_line(self, run: Any, environ: dict[str, str]) -> None:
        ended = run("chat", "databricks-bge-large-en", "hi", "--no-stream")
        assert ended.status == 1
        assert "use `dbllm embed`" in ended.err

    @pytest.mark.usefixtures("no_workspace")
    def test_without_a_workspace_it_says_how_to_name_one(self, run: Any) -> None:
        ended = run("complete", "dolly", "hi")
        assert ended.status == 1
        assert "DATABRICKS_HOST" in ended.err

    @pytest.mark.usefixtures("no_workspace")
    def test_a_profile_names_the_workspace(
        self, run: Any, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "cfg").write_text(f"[here]\nhost = {workspace.host}\ntoken = {workspace.token}\n")
        monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "cfg"))
        assert run("complete", "dolly", "hi", "--profile", "here", *SHORT).status == 0

    @pytest.mark.usefixtures("environ")
    def test_the_environment_s_token_does_not_go_to_another_host(self, run: Any) -> None:
        ended = run("complete", "dolly", "hi", "--host", "https://elsewhere.invalid")
        assert ended.status == 1
        assert "TOKEN" in ended.err

    @pytest.mark.usefixtures("environ")
    @pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
    def test_a_timeout_that_is_none_is_refused(self, run: Any, seconds: str) -> None:
        ended = run("complete", "dolly", "hi", "--timeout", seconds)
        assert ended.status == 1
        assert ended.err.count("\n") == 1

    @pytest.mark.usefixtures("environ")
    def test_a_timeout_is_for_the_whole_call(self, run: Any) -> None:
        ended = run("complete", "dolly", "Tell me a story.", "--timeout", "0.05")
        assert ended.status == 1
        assert "Traceback" not in ended.err

    @pytest.mark.usefixtures("environ")
    def test_text_that_is_not_utf8_is_refused(self, run: Any) -> None:
        ended = run("complete", "dolly", "-", stdin=b"\xff\xfe")
        assert (ended.status, ended.err.count("\n")) == (1, 1)

    def test_no_command_takes_a_token(self, run: Any) -> None:
        for command in ("complete", "chat", "embed", "predict"):
            assert "--token" not in run(command, "--help").out


class TestParameters:
    def test_a_value_that_is_json_is_that_value(self) -> None:
        texts = ["temperature=0.1", "n=2", "flag=true", "labels=[1]", "none=null"]
        assert dict(read_param(text) for text in texts) == {
            "temperature": 0.1,
            "n": 2,
            "flag": True,
            "labels": [1],
            "none": None,
        }

    def test_any_other_value_is_text(self) -> None:
        assert dict(read_param(text) for text in ("style=dry=wit", "empty=")) == {"style": "dry=wit", "empty": ""}

    @pytest.mark.parametrize("pair", ["temperature", "=1", "stop=.", "timeout=5", "headers={}", "tags={}"])
    def test_what_is_no_parameter_is_wrong_usage(self, run: Any, pair: str) -> None:
        assert run("complete", "dolly", "hi", "--param", pair).status == 2
