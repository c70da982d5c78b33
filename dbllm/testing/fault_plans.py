"""Which fault a request meets: a pure function of a seed, of what is asked, and of how often it was asked before.

Each request has a nonce: its header `x-nonce`, else the text of its prompt, else its method and path. The n-th request
of a nonce meets the same fault in every run with the same seed and mix, in whatever order the requests arrive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FaultName = Literal[
    "late",
    "drip",
    "slices",
    "narrow",
    "informational",
    "extra_bytes",
    "429",
    "429_hint",
    "503",
    "500",
    "502",
    "504",
    "close_race",
    "reset_kept",
    "early_413",
    "close_before_head",
    "reset_before_head",
    "close_in_body",
    "reset_in_body",
    "stall",
    "half_open",
    "header_bomb",
    "duplicate_header",
    "chunk_garbage",
    "wrong_length",
    "broken_gzip",
    "truncated_json",
]
FaultEffect = Literal["harmless", "refused", "may have run", "ran, and the answer is lost"]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What one fault does.

    Attributes:
        effect: what a client may conclude from it. "harmless": the answer comes whole; "refused": the request did not
            run; "may have run": an answer says that something failed; "ran, and the answer is lost": it was executed.
        meaning: what happens, in one line.
    """

    effect: FaultEffect
    meaning: str

    @property
    def runs(self) -> bool:
        """Whether the server executes a request that meets it."""
        return self.effect != "refused"


_LOST: FaultEffect = "ran, and the answer is lost"
FAULT_KINDS: Mapping[FaultName, FaultKind] = {
    "late": FaultKind("harmless", "the answer begins `pause` seconds late"),
    "drip": FaultKind("harmless", "the body comes byte by byte, and takes `pause` seconds"),
    "slices": FaultKind("harmless", "the answer comes in pieces of 1 to 7 bytes"),
    "narrow": FaultKind("harmless", "the answer comes with 16 KiB per second"),
    "informational": FaultKind("harmless", "64 answers 102 come before the answer"),
    "extra_bytes": FaultKind("harmless", "a second, forged answer follows the answer at once"),
    "429": FaultKind("refused", "429 without Retry-After"),
    "429_hint": FaultKind("refused", "429 with Retry-After-Ms"),
    "503": FaultKind("refused", "503"),
    "500": FaultKind("may have run", "500"),
    "502": FaultKind("may have run", "502"),
    "504": FaultKind(_LOST, "504"),
    "close_race": FaultKind("harmless", "the connection ends up to 5 ms after the answer, though it was to be kept"),
    "reset_kept": FaultKind("refused", "a kept connection is reset as its next request comes; a new one answers"),
    "early_413": FaultKind("refused", "413 before the body was read, then the end of the connection"),
    "close_before_head": FaultKind(_LOST, "the connection ends `run` seconds after the request, without an answer"),
    "reset_before_head": FaultKind(_LOST, "the same with RST"),
    "close_in_body": FaultKind(_LOST, "the connection ends in the middle of the body"),
    "reset_in_body": FaultKind(_LOST, "the same with RST"),
    "stall": FaultKind(_LOST, "head and half the body, then nothing for `stall` seconds, then the end"),
    "half_open": FaultKind(_LOST, "nothing comes any more, and nothing is read, for `stall` seconds"),
    "header_bomb": FaultKind(_LOST, "a header of 1 MiB"),
    "duplicate_header": FaultKind(_LOST, "two different Content-Length headers"),
    "chunk_garbage": FaultKind(_LOST, "the size of a chunk is no number"),
    "wrong_length": FaultKind(_LOST, "Content-Length is more than what comes"),
    "broken_gzip": FaultKind(_LOST, "the body says it is gzip, and is damaged"),
    "truncated_json": FaultKind(_LOST, "a whole body that holds half of the JSON"),
}

FAULT_STATUSES: Mapping[FaultName, int] = {
    "429": 429,
    "429_hint": 429,
    "500": 500,
    "502": 502,
    "503": 503,
    "504": 504,
    "early_413": 413,
}
"""The status of each fault that is one."""

Mix = Mapping[FaultName, float]
"""Fault → share of the requests that meet it; the shares are 1 at most in sum."""

SAFE_FAULTS: Mix = {
    "429": 0.07,
    "429_hint": 0.08,
    "503": 0.06,
    "500": 0.03,
    "502": 0.03,
    "slices": 0.01,
    "late": 0.01,
    "drip": 0.01,
}
"""30 % of the requests fail or limp, and each that fails may be sent again."""

ALL_FAULTS: Mix = {
    "429": 0.04,
    "429_hint": 0.03,
    "503": 0.04,
    "500": 0.03,
    "502": 0.02,
    "504": 0.01,
    "close_race": 0.01,
    "reset_before_head": 0.01,
    "close_before_head": 0.01,
    "reset_in_body": 0.01,
    "close_in_body": 0.01,
    "truncated_json": 0.01,
    "broken_gzip": 0.01,
    "wrong_length": 0.01,
    "duplicate_header": 0.01,
    "chunk_garbage": 0.005,
    "header_bomb": 0.005,
    "stall": 0.005,
    "drip": 0.0025,
    "slices": 0.01,
    "late": 0.0025,
    "extra_bytes": 0.005,
    "informational": 0.0025,
    "half_open": 0.0025,
}
"""30 % of the requests meet a fault of any kind."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What happens to one request.

    Attributes:
        fault: its kind, or None if all goes well.
        draw: uniform in 0 … 1; where an answer is cut, say.
    """

    fault: FaultName | None
    draw: float


def check_mix(mix: Mix) -> None:
    """Say what is wrong with a mix.

    Raises:
        ValueError: a fault of another name, a share that is none, or shares of more than 1 in sum.
    """
    for name, share in mix.items():
        if name not in FAULT_KINDS:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULT_KINDS)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"the share of {name!r} is from 0 to 1, got {share!r}")
    if sum(mix.values()) > 1 + 1e-9:
        raise ValueError(f"the shares of a mix are 1 at most in sum, got {sum(mix.values()):g}")


def plan_request(seed: int, nonce: str, number: int, mix: Mix) -> FaultPlan:
    """What happens to the `number`-th request of a nonce (from 1)."""
    digest = hashlib.blake2b(f"{seed}/{number}/{nonce}".encode("utf-8", "surrogatepass"), digest_size=14).digest()
    place = int.from_bytes(digest[:7], "big") / 2**56
    draw = int.from_bytes(digest[7:], "big") / 2**56
    for name, share in mix.items():
        if place < share:
            return FaultPlan(name, draw)
        place -= share
    return FaultPlan(None, draw)
