"""Prometheus metrics of one process.

Owns a registry of its own with the counters of what this process did, and the gauges that are read from the record at
the moment of a scrape. The names are in `names`.
Gauges of the record say the same whichever process is asked: scrape one of several, or take the maximum, never the sum.
Never label by an id, a path or a tenant: a label's values must stay few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from headrace.telemetry import names

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of the process that answers HTTP; make one per process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            names.METRIC_HTTP_REQUESTS, "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            names.METRIC_HTTP_SECONDS,
            "Seconds from a request's arrival to its answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.jobs = self._gauge(
            names.METRIC_JOBS, "Jobs on record that are unfinished or stopped without success.", ("queue", "state")
        )
        self.oldest_pending_seconds = self._gauge(
            names.METRIC_OLDEST_PENDING_SECONDS, "Age of the oldest job that waits though it is due.", ("queue",)
        )
        self.parked = self._gauge(
            names.METRIC_PARKED,
            "Due jobs that stand aside: their key is busy, or no worker knows their task.",
            ("queue",),
        )
        self.concurrency_limit = self._gauge(
            names.METRIC_CONCURRENCY_LIMIT,
            "Jobs of a queue that may be in flight at once, where that is limited.",
            ("queue",),
        )
        self.outbox = self._gauge(names.METRIC_OUTBOX, "Events committed and not yet in a lane.", ())
        self.outbox_age_seconds = self._gauge(
            names.METRIC_OUTBOX_AGE_SECONDS, "Age of the oldest event that is not yet in a lane.", ()
        )
        self.subscription_lag = self._gauge(
            names.METRIC_SUBSCRIPTION_LAG, "Events that a subscription has yet to handle.", ("subscription",)
        )
        self.holds_trimming = self._gauge(
            names.METRIC_HOLDS_TRIMMING, "Events that Redis holds for this subscription alone.", ("subscription",)
        )
        self.belt_mends = self._gauge(
            names.METRIC_BELT_MENDS, "How often the belt differed from the record and was mended.", ("reason",)
        )
        self.belt_mended_entries = self._gauge(
            names.METRIC_BELT_MENDED_ENTRIES, "How many entries were missing then.", ("reason",)
        )
        self.held_keys = self._gauge(
            names.METRIC_HELD_KEYS, "Keys whose events wait on record, by why they do.", ("subscription", "state")
        )
        self.waiting_events = self._gauge(
            names.METRIC_WAITING_EVENTS, "Events that wait on record behind their key.", ("subscription",)
        )
        self.dead_deliveries = self._gauge(
            names.METRIC_DEAD_DELIVERIES, "Deliveries that ended dead.", ("subscription",)
        )
        self.webhooks = self._gauge(names.METRIC_WEBHOOKS, "Webhooks that are enabled, failing, disabled.", ("state",))
        self.loop_blocks = self._gauge(
            names.METRIC_LOOP_BLOCKS, "How often a task has blocked an event loop for over a second.", ("task",)
        )
        self.loop_blocked_seconds = self._gauge(
            names.METRIC_LOOP_BLOCKED_SECONDS, "For how long a task has blocked event loops in all.", ("task",)
        )
        self.processes = self._gauge(names.METRIC_PROCESSES, "Processes alive.", ("role",))
        self.live_listeners = self._gauge(names.METRIC_LIVE_LISTENERS, "Live tails of this process.", ())
        self.live_dropped = self._gauge(
            names.METRIC_LIVE_DROPPED, "Live tails of this process that were let go because nobody read them.", ()
        )

    def observe_request(self, method: str, route: str, *, status: int, seconds: float) -> None:
        """Count one answered request; `route` is the template, "" where none matched."""
        place = (method, route, status)
        children = self._children.get(place)
        if children is None:
            children = self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)
            self._children[place] = children
        children[0].inc()
        children[1].observe(seconds)

    def render(self) -> bytes:
        """Return the exposition of everything, in `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(name, meaning, labels, registry=self._registry)


def replace(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
    """Make a labelled gauge say exactly these values: what is no longer there disappears."""
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*labels).set(value)
