"""Rate limits of services in the words of those of endpoints, which are what is counted. All pure."""

from __future__ import annotations

from collections.abc import Mapping

from dbllm.local.errors import invalid
from dbllm.local.json_values import Json
from dbllm.local.management.endpoint_config import read_object

KEYS: Mapping[str, str] = {
    "RATE_LIMIT_KEY_SERVICE": "endpoint",
    "RATE_LIMIT_KEY_USER_DEFAULT": "user",
    "RATE_LIMIT_KEY_USER": "user",
    "RATE_LIMIT_KEY_USER_GROUP": "user_group",
    "RATE_LIMIT_KEY_SERVICE_PRINCIPAL": "service_principal",
}
WITHOUT_PRINCIPAL = ("RATE_LIMIT_KEY_SERVICE", "RATE_LIMIT_KEY_USER_DEFAULT")
PERIODS: Mapping[str, str] = {"RATE_LIMIT_RENEWAL_PERIOD_MINUTE": "minute", "RATE_LIMIT_RENEWAL_PERIOD_HOUR": "hour"}


def read_service_limits(raw: object) -> list[Json]:
    """The `rate_limits` of a service's config as limits of an endpoint: requests are calls there.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(raw, list):
        raise invalid("config.rate_limits must be a list")
    return [_service_limit(read_object(one, "config.rate_limits[]")) for one in raw]


def _service_limit(limit: Json) -> Json:
    key, period, principal = limit.get("key"), limit.get("renewal_period"), limit.get("principal")
    if key not in KEYS:
        raise invalid(f"The key of a rate limit must be one of {', '.join(KEYS)}")
    if period not in PERIODS:
        raise invalid(f"The renewal_period of a rate limit must be one of {', '.join(PERIODS)}")
    if (principal is None) != (key in WITHOUT_PRINCIPAL) or not isinstance(principal or "x", str):
        raise invalid(f"A rate limit with the key {key} {'has no' if principal is not None else 'needs a'} principal")
    read: Json = {"key": KEYS[str(key)], "renewal_period": PERIODS[str(period)]}
    for ours, theirs in (("calls", "requests"), ("tokens", "tokens")):
        value = limit.get(theirs)
        if value is None:
            continue
        if type(value) is not int or not 0 <= value < 2**53:
            raise invalid(f"{theirs} of a rate limit must be an integer that is not negative")
        read[ours] = value
    if len(read) < 3:
        raise invalid("A rate limit needs requests or tokens")
    return {**read, "principal": principal} if principal is not None else read
