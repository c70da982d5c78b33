"""The types of what errors tell; run by mypy and pyright, never executed."""

from __future__ import annotations

from typing_extensions import assert_type

from dbllm import APIError, DbllmError, RateLimitError, Raw, Retry, StreamInterruptedError, Timeout


def caught() -> None:
    try:
        raise RateLimitError("slow")
    except StreamInterruptedError as error:
        assert_type(error.partial_text, str)
    except RateLimitError as error:
        assert_type(error, RateLimitError)
        assert_type(error.retry_after, float | None)
    except APIError as error:
        assert_type(error.status, int | None)
        assert_type(error.error_code, str)
        assert_type(error.message, str)
        assert_type(error.detail, str)
        assert_type(error.hint, str)
        assert_type(error.request_id, str | None)
        assert_type(error.attempts, int)
        assert_type(error.raw, Raw | None)
        assert_type(error.previous, tuple[APIError, ...])
        assert_type(error.sent, bool)
    except DbllmError as error:
        assert_type(error.args, tuple[object, ...])  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]


def policies() -> None:
    assert_type(Retry().attempts, int)
    assert_type(Retry().backoff, float)
    assert_type(Retry().retry_ambiguous, bool)
    assert_type(Timeout().total, float | None)
    assert_type(Timeout.of(5), Timeout)
    Retry(attempt=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Retry().attempts = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
