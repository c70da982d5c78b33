"""`DBLLM_LOG=debug|info|warning`: dbllm's log on the standard error, for a program that has set up none."""

from __future__ import annotations

import logging
import sys

from ..errors import ConfigError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the standard error of the moment, unless the program has handlers of its own."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        own = logging.getLogger("dbllm")
        if [*logging.getLogger().handlers, *own.handlers] != [self]:
            return  # the program has set up its log, perhaps later than this
        self.stream = sys.stderr
        super().emit(record)


def show_logs(level: str) -> None:
    """Let dbllm's log be seen from this level up. Called again, it changes the level alone.

    Raises:
        ConfigError: there is no such level.
    """
    if (number := LEVELS.get(level.strip().lower())) is None:
        raise ConfigError(f"DBLLM_LOG must be debug, info or warning, got {level!r}.")
    logger = logging.getLogger("dbllm")
    logger.setLevel(number)
    if not any(isinstance(handler, _Handler) for handler in logger.handlers):
        logger.addHandler(_Handler())
