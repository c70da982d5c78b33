"""Long proofs of what is promised: they run where they are asked for by their folder, and never beside other tests.

`DBLLM_LONG=1` makes them as long as a night may be; without it, each is a sample of a minute or less.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = any(HERE.name in Path(argument.split("::")[0]).parts for argument in config.args)
    return None if asked else True
