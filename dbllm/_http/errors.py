"""What failed on the way to an answer, as dbllm's errors. Pure."""

from __future__ import annotations

import re

from ..errors import APIConnectionError, APIError, APIResponseError, APITimeoutError, Raw

_UNTRUSTED = "The certificate is not trusted here: pass verify= a file with its CA, or verify='system'."
_QUOTED = re.compile(r"[:\s]*(?:bytearray\()?\bb['\"].*", re.DOTALL)  # bytes in h11's words


def connect_error(error: BaseException, late: bool) -> APIError:
    what = describe_error(error)
    if late:
        return APITimeoutError("no connection in time", sent=False)
    hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in what else ""
    return APIConnectionError(f"no connection to the workspace ({what})", hint=hint, sent=False)


def broken_connection_error(error: BaseException, late: bool, raw: Raw | None, sent: bool) -> APIError:
    """The error for a connection that broke; `raw` is what had come."""
    if late:
        return APITimeoutError("the answer did not come in time", raw=raw)
    return APIConnectionError(f"the connection broke ({describe_error(error)})", sent=sent, raw=raw)


def undecodable_error(error: Exception, raw: Raw) -> APIError:
    """The error for a body that cannot be decompressed, or is a bomb: the latter alone is no zlib.error."""
    return APIResponseError(f"the answer cannot be decompressed ({error})", raw=raw)


def describe_error(error: BaseException) -> str:
    """What an error of the HTTP stack is about, without the server's bytes: they may repeat what is secret."""
    link: BaseException | None = error
    while link is not None and not str(link):  # trio says it only in what lies beneath
        link = link.__cause__ or link.__context__
    return f"{type(error).__name__}: {_QUOTED.sub('', str(link))}" if link is not None else type(error).__name__


def without_tracebacks(error: BaseException) -> BaseException:
    """An error of the HTTP stack without its frames: their locals hold the bytes that were sent, the token's too.

    Nor does its text quote the server's bytes, which may repeat that.
    """
    link: BaseException | None = error
    seen: set[int] = set()  # an error that is raised again can stand in its own context
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if _QUOTED.search(str(link)):
            link.args = (_QUOTED.sub("", str(link)),)
        link.__traceback__, link = None, link.__cause__ or link.__context__
    return error
