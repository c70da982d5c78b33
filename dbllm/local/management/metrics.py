"""What an endpoint did since the workspace started: its metrics in Prometheus' text format, and its log."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from datetime import datetime, timezone

LINES = 200
"""Of the log of one served entity."""
MAX_TAGS = 1000
"""Different tags of the requests of one endpoint that are counted, so that a caller cannot fill the memory."""

Tag = tuple[str, str]
"""Key and value."""


class Metrics:
    """Counters and logs of all endpoints, in memory. No text of a request or an answer is in them."""

    def __init__(self) -> None:
        self._answers: dict[str, Counter[int]] = {}
        self._seconds: dict[str, float] = {}
        self._logs: dict[tuple[str, str], deque[str]] = {}
        self._tags: dict[str, Counter[Tag]] = {}

    def tagged(self, endpoint: str, tags: Mapping[str, str]) -> None:
        """Count the tags of one request."""
        counted = self._tags.setdefault(endpoint, Counter()) if tags else Counter[Tag]()
        for tag in tags.items():
            if tag in counted or len(counted) < MAX_TAGS:
                counted[tag] += 1

    def tags(self) -> dict[str, list[tuple[Tag, int]]]:
        """How many requests had which tag, by endpoint or model service. Safe to call from any thread."""
        return {endpoint: list(counted.copy().items()) for endpoint, counted in self._tags.copy().items()}

    def answered(self, endpoint: str, served: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._answers.setdefault(endpoint, Counter())[status] += 1
        self._seconds[endpoint] = self._seconds.get(endpoint, 0.0) + seconds
        log = self._logs.setdefault((endpoint, served), deque(maxlen=LINES))
        log.append(f"{datetime.now(timezone.utc).isoformat(timespec='milliseconds')} {status} {seconds * 1000:.0f} ms")

    def forget(self, endpoint: str) -> None:
        """An endpoint is gone."""
        self._answers.pop(endpoint, None)
        self._seconds.pop(endpoint, None)
        self._tags.pop(endpoint, None)
        for key in [key for key in self._logs if key[0] == endpoint]:
            del self._logs[key]

    def text(self, endpoint: str) -> str:
        """The metrics of one endpoint (Databricks: GET /api/2.0/serving-endpoints/{name}/metrics)."""
        answers = dict(self._answers.get(endpoint, Counter()))
        total = sum(answers.values())
        values = {
            "request_count_total": total,
            "request_4xx_count_total": sum(count for status, count in answers.items() if 400 <= status < 500),
            "request_5xx_count_total": sum(count for status, count in answers.items() if status >= 500),
        }
        lines: list[str] = []
        label = f'{{endpoint_name="{endpoint}"}}'
        for name, value in values.items():
            lines += [f"# TYPE {name} counter", f"{name}{label} {value}"]
        lines += [
            "# TYPE request_latency_ms summary",
            f"request_latency_ms_sum{label} {self._seconds.get(endpoint, 0.0) * 1000:.1f}",
            f"request_latency_ms_count{label} {total}",
        ]
        if tags := self.tags().get(endpoint):
            lines.append("# TYPE request_tag_count_total counter")
        for (key, text), count in tags or ():
            tagged = f'endpoint_name="{endpoint}",key="{_label(key)}",value="{_label(text)}"'
            lines.append(f"request_tag_count_total{{{tagged}}} {count}")
        return "\n".join(lines) + "\n"

    def log(self, endpoint: str, served: str) -> str:
        """When a served entity answered with which status."""
        return "".join(f"{line}\n" for line in tuple(self._logs.get((endpoint, served), ())))


def _label(text: str) -> str:
    """A label's value in Prometheus' text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
