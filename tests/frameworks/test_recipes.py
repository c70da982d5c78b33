"""A `RowMapper` in Ray Data, Dask and Daft: 500 rows, one of them bad, and none lost.

Each test is a recipe. The mapper travels as a pickle, makes its client where it runs, and turns a failure into an error
row, so nothing that these frameworks do about errors is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dbllm.bulk import RowMapper
from dbllm.testing import FaultServer, fault_server

ROWS, BAD = 500, 77
ROWS_OF_INPUT = [{"id": number, "text": None if number == BAD else f"row {number}"} for number in range(ROWS)]

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with fault_server(mix={"429": 0.05, "503": 0.05}) as running:
        monkeypatch.setenv("DATABRICKS_HOST", running.host)  # workers inherit it, and find their credential so
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-of-the-workers")
        yield running


def mapper() -> RowMapper:
    return RowMapper("m", verb="chat", prompt="Say {text}", params={"max_tokens": 9})


def check(rows: list[dict[str, Any]]) -> None:
    assert sorted(row["id"] for row in rows) == list(range(ROWS))
    failed = [row for row in rows if row["error"]]
    assert [(row["id"], "RowInputError" in row["error"]) for row in failed] == [(BAD, True)]
    assert all(row["output"] == f"Say row {row['id']}" for row in rows if not row["error"])


def start_ray(ray: Any) -> None:
    """Ray gives its own processes half a minute, which a busy machine may not make the first time."""
    for last in (False, False, True):
        try:
            ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        except Exception as error:
            ray.shutdown()
            if last or "timed out during startup" not in str(error):
                raise
        else:
            return


def test_ray_data(server: FaultServer) -> None:
    ray = pytest.importorskip("ray")

    class Ask:
        """An actor: its event loop and its client stay from batch to batch."""

        def __init__(self, mapper: RowMapper) -> None:
            self.mapper, self.loop = mapper, asyncio.new_event_loop()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            texts = [None if text is None else str(text) for text in batch["text"]]

            async def ask() -> list[Any]:
                return await asyncio.gather(*(self.mapper({"text": text}) for text in texts))

            results = self.loop.run_until_complete(ask())
            batch["output"] = [result.output for result in results]
            batch["error"] = [result.error and result.error.name for result in results]
            return batch

    start_ray(ray)
    try:
        dataset = ray.data.from_items(ROWS_OF_INPUT)
        answered = dataset.map_batches(Ask, fn_constructor_args=(mapper(),), batch_size=64, concurrency=1, num_cpus=0.5)
        check(answered.take_all())
    finally:
        ray.shutdown()


def test_dask(server: FaultServer) -> None:
    dask = pytest.importorskip("dask")
    pandas = pytest.importorskip("pandas")
    from dask import dataframe

    def ask(part: Any, mapper: RowMapper) -> Any:
        async def ask_all() -> list[Any]:
            return await asyncio.gather(*(mapper({"text": text}) for text in part["text"]))

        results = asyncio.run(ask_all())  # as it ends, its connections end, and no other thread's
        return part.assign(
            output=[result.output for result in results],
            error=[result.error.name if result.error else "" for result in results],
        )

    frame = dataframe.from_pandas(pandas.DataFrame(ROWS_OF_INPUT), npartitions=4)
    meta = {"id": "int64", "text": "object", "output": "object", "error": "object"}
    with dask.config.set(scheduler="threads", num_workers=2):
        check(frame.map_partitions(ask, mapper(), meta=meta).compute().to_dict("records"))


def test_daft(server: FaultServer) -> None:
    daft = pytest.importorskip("daft")
    kind = daft.DataType.struct({"output": daft.DataType.string(), "error": daft.DataType.string()})

    @daft.cls(max_concurrency=1)
    class Ask:
        def __init__(self, mapper: RowMapper) -> None:
            self.mapper = mapper

        @daft.method(return_dtype=kind)
        async def ask(self, text: str) -> dict[str, Any]:
            result = await self.mapper({"text": text})
            return {"output": result.output, "error": result.error and result.error.name}

    frame = daft.from_pylist(ROWS_OF_INPUT)
    answered = frame.with_column("answer", Ask(mapper()).ask(daft.col("text"))).to_pylist()
    check([{**row, **row["answer"]} for row in answered])
