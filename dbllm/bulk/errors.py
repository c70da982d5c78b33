"""What ends a job, each with the exit status of `dbllm bulk`."""

from __future__ import annotations

from typing import Any, ClassVar

from ..errors import DbllmError


class BulkError(DbllmError):
    """A job could not start, or ended before its last row.

    Attributes:
        exit_code: the exit status of `dbllm bulk`.
        report: the job's report up to here, or None if it had not begun.
    """

    exit_code: ClassVar[int] = 1
    report: Any = None


class InputMissingError(BulkError):
    """The input does not exist or cannot be read. Exit status 66."""

    exit_code = 66


class BadInputError(BulkError):
    """The input has rows that cannot be sent, or it is not the input that the job began with. Exit status 65."""

    exit_code = 65


class JournalError(BulkError):
    """The journal is damaged, was cut, or is another job's. Exit status 65."""

    exit_code = 65


class OutputError(BulkError):
    """The output cannot be made there, or another process is at work on it. Exit status 73."""

    exit_code = 73


class DiskError(BulkError):
    """The disk takes no more: it is full, over its quota, or fails. What was written is kept. Exit status 74."""

    exit_code = 74


class Interrupted(BulkError):
    """Ctrl-C, SIGTERM or a terminal that closed ended the job; the same call goes on with it. Exit status 75."""

    exit_code = 75


class EveryRowRefused(BulkError):
    """The endpoint refuses every row for one reason: the token, a permission, its name, the verb. Exit status 77.

    Nothing was paid for the rows that were refused. They are no error rows: the same call asks them again.
    """

    exit_code = 77


class TooManyErrors(BulkError):
    """The share of error rows passed `max_error_rate`. Exit status 76."""

    exit_code = 76
