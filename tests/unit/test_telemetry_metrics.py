"""The metrics of a process, as Prometheus reads them."""

from __future__ import annotations

from headrace.telemetry.metrics import Metrics, replace


def test_render_says_what_was_counted_when_requests_were_answered() -> None:
    """A request is counted under its route's template and status."""
    metrics = Metrics()

    metrics.observe_request("POST", "/v1/jobs", status=202, seconds=0.004)

    text = metrics.render().decode()
    assert 'headrace_http_requests_total{method="POST",route="/v1/jobs",status="202"} 1.0' in text
    assert 'headrace_http_request_duration_seconds_bucket{le="0.005",method="POST",route="/v1/jobs"} 1.0' in text


def test_replace_forgets_a_label_when_it_is_no_longer_on_record() -> None:
    """A gauge read from the record never keeps saying what is gone."""
    metrics = Metrics()
    replace(metrics.jobs, {("default", "pending"): 3, ("mail", "dead"): 1})

    replace(metrics.jobs, {("default", "pending"): 2})

    text = metrics.render().decode()
    assert 'headrace_jobs{queue="default",state="pending"} 2.0' in text
    assert "mail" not in text


def test_two_metrics_do_not_meet_when_they_live_in_one_process() -> None:
    """Each process part has a registry of its own."""
    first, second = Metrics(), Metrics()

    first.outbox.set(5)

    assert "headrace_outbox_events 0.0" in second.render().decode()
