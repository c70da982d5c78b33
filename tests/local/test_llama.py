from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dbllm.local import LocalError
from dbllm.local.model.llama import Engine, EngineRefused, EngineStopped, Job, Piece, read_chunk, read_metrics

LONG = Job("raw", {"prompt": "Once upon a time", "max_tokens": 3000, "ignore_eos": True})


def chat(text: str, **request: object) -> Job:
    return Job("chat", {"messages": [{"role": "user", "content": text}], "temperature": 0, **request})


def answer(engine: Engine, *jobs: Job) -> list[Piece]:
    async def collect() -> list[Piece]:
        async with engine.generate(jobs) as pieces:
            return [piece async for piece in pieces]

    return asyncio.run(collect())


def text(pieces: list[Piece], job: int = 0) -> str:
    return "".join(piece.text for piece in pieces if piece.job == job)


def test_an_answer_varies_with_the_prompt_and_repeats_at_temperature_zero(engine: Engine) -> None:
    sky = text(answer(engine, chat("What mode is the sky?", max_tokens=12)))
    again = text(answer(engine, chat("What mode is the sky?", max_tokens=12)))
    tower = text(answer(engine, chat("Where is the Eiffel Tower?", max_tokens=12)))
    assert "Paris" in tower
    assert sky == again
    assert sky != tower


def test_the_last_piece_says_why_it_ended_and_how_many_tokens_it_took(engine: Engine) -> None:
    pieces = answer(engine, chat("Tell me a story", max_tokens=5))
    assert [piece.finish_reason for piece in pieces][-1] == "length"
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    assert pieces[-1].tokens.completion == 5
    assert pieces[-1].tokens.prompt > 30
    assert [piece.tokens.completion for piece in pieces[:-1]] == sorted(
        piece.tokens.completion for piece in pieces[:-1]
    )


def test_a_stop_string_over_several_tokens_is_cut_exactly(engine: Engine) -> None:
    full = text(answer(engine, chat("Tell me a story", max_tokens=30)))
    stop = full[7:19]
    pieces = answer(engine, chat("Tell me a story", max_tokens=30, stop=[stop]))
    assert text(pieces) == full[: full.index(stop)]
    assert pieces[-1].finish_reason == "stop"


def test_more_jobs_than_slots_are_all_answered_each_under_its_own_number(engine: Engine) -> None:
    pieces = answer(engine, *(chat(f"What is {n} + {n}?", max_tokens=4) for n in range(6)))
    assert {piece.job for piece in pieces} == set(range(6))
    assert all(text(pieces, job) for job in range(6))


def test_leaving_early_stops_the_model_and_frees_the_slot(
    engine: Engine, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    before = engine.metrics()["tokens_predicted_total"]

    async def leave_early() -> None:
        async with engine.generate([LONG]) as pieces:
            async for piece in pieces:
                if piece.tokens.completion >= 3:
                    assert engine.metrics()["requests_processing"] == 1
                    break
        # While the loop still runs: its end would stop the model too.
        await asyncio.to_thread(eventually, lambda: engine.metrics()["requests_processing"] == 0)

    asyncio.run(leave_early())
    assert engine.metrics()["tokens_predicted_total"] - before < 300


def test_a_prompt_over_the_context_is_refused_with_the_numbers(engine: Engine) -> None:
    with pytest.raises(EngineRefused, match="exceeds the available context size"):
        answer(engine, chat("hi " * 6000))


def test_text_that_cannot_be_encoded_is_refused_and_the_engine_goes_on(engine: Engine) -> None:
    with pytest.raises(EngineRefused):
        answer(engine, chat("\ud800"))
    assert answer(engine, chat("hello", max_tokens=1))


def test_a_schema_is_enforced(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    pieces = answer(engine, chat("Pick a number", max_tokens=30, response_format=wanted))
    assert json.loads(text(pieces)) == {"n": 7}


def test_another_model_gives_other_answers(engine: Engine, other_model: Path) -> None:
    other = Engine(other_model, slots=1, context=512)
    try:
        assert other.name == "other-model"
        job = chat("Where is the Eiffel Tower?", max_tokens=12)
        assert text(answer(other, job)) != text(answer(engine, job))
    finally:
        other.close()


def test_closing_ends_running_answers_as_unfinished_and_refuses_new_ones(model: Path) -> None:
    engine = Engine(model, slots=1, context=4096)

    async def close_in_the_middle() -> None:
        async with engine.generate([LONG]) as pieces:
            await anext(pieces)
            engine.interrupt()
            async for _ in pieces:
                pass

    with pytest.raises(EngineStopped):
        asyncio.run(close_in_the_middle())
    engine.close()
    with pytest.raises(EngineStopped):
        answer(engine, chat("hello"))


@pytest.mark.parametrize("content", [None, b"", b"GGUF but nothing else", b"PK\x03\x04"])
def test_what_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LocalError, match=r"model\.gguf"):
        Engine(path)


def test_chunks_without_text_or_end_are_no_pieces() -> None:
    assert read_chunk(0, {"choices": []}) is None
    assert (
        read_chunk(0, {"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]}) is None
    )
    assert read_chunk(2, {"choices": [{"text": "", "finish_reason": "stop"}]}) == Piece(2, "", "stop")


def test_metrics_are_read_without_their_comments() -> None:
    assert read_metrics("# HELP x y\nllamacpp:requests_processing 1\n\n") == {"requests_processing": 1.0}
