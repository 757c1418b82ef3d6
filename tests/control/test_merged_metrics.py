"""Metrics of several workers are those of one server, over deaths and restarts."""

from __future__ import annotations

from penstock.control.exposition import expose
from penstock.control.metrics import Metrics
from penstock.link import METRICS, SeriesValue, Snapshot

REQUESTS = "penstock_requests_total"
LABELS = ("gpt-5.4", "openai", "200", "ok")


def requests(count: float) -> SeriesValue:
    return SeriesValue(REQUESTS, LABELS, count)


def in_flight(count: float) -> SeriesValue:
    return SeriesValue("penstock_requests_in_flight", (), count)


def durations(*values: float) -> SeriesValue:
    bounds = next(metric.bounds for metric in METRICS if metric.name == "penstock_request_duration_seconds")
    buckets = [0] * (len(bounds) + 1)
    for value in values:
        buckets[sum(value > bound for bound in bounds)] += 1
    return SeriesValue("penstock_request_duration_seconds", ("gpt-5.4", "openai"), sum(values), tuple(buckets))


def value(metrics: Metrics, name: str) -> float | None:
    return next((series.value for series in metrics.merged() if series.name == name), None)


def lines(metrics: Metrics) -> list[str]:
    return expose(metrics.merged()).decode().splitlines()


def test_workers_are_added_up() -> None:
    metrics = Metrics()
    metrics.update(0, Snapshot(0, (requests(3), in_flight(1))))
    metrics.update(1, Snapshot(0, (requests(4), in_flight(2))))
    assert value(metrics, REQUESTS) == 7
    assert value(metrics, "penstock_requests_in_flight") == 3


def test_a_later_snapshot_of_a_worker_takes_the_place_of_the_earlier() -> None:
    metrics = Metrics()
    metrics.update(0, Snapshot(0, (requests(3),)))
    metrics.update(0, Snapshot(1, (requests(5),)))
    assert value(metrics, REQUESTS) == 5


def test_a_dead_workers_counts_stay_and_its_gauges_go() -> None:
    metrics = Metrics()
    metrics.update(0, Snapshot(0, (requests(3), in_flight(9), durations(0.2))))
    metrics.retire(0)
    assert value(metrics, REQUESTS) == 3
    assert value(metrics, "penstock_requests_in_flight") is None
    metrics.update(0, Snapshot(0, (requests(1), in_flight(1), durations(0.3, 400.0))))
    assert value(metrics, REQUESTS) == 4
    assert value(metrics, "penstock_requests_in_flight") == 1
    metrics.retire(0)
    metrics.retire(0)
    assert value(metrics, REQUESTS) == 4
    assert value(metrics, "penstock_request_duration_seconds") == 400.5


def test_histograms_are_exposed_cumulative_with_sum_and_count() -> None:
    metrics = Metrics()
    metrics.update(0, Snapshot(0, (durations(0.2, 0.2),)))
    metrics.update(1, Snapshot(0, (durations(0.3, 400.0),)))
    text = lines(metrics)
    labels = 'model="gpt-5.4",provider="openai"'
    name = "penstock_request_duration_seconds"
    assert f'{name}_bucket{{le="0.1",{labels}}} 0.0' in text
    assert f'{name}_bucket{{le="0.25",{labels}}} 2.0' in text
    assert f'{name}_bucket{{le="300.0",{labels}}} 3.0' in text
    assert f'{name}_bucket{{le="+Inf",{labels}}} 4.0' in text
    assert f"{name}_count{{{labels}}} 4.0" in text
    assert f"{name}_sum{{{labels}}} 400.7" in text


def test_every_metric_is_announced_with_its_kind_before_anything_is_counted() -> None:
    text = lines(Metrics())
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}" in text
        assert f"# HELP {metric.name} {metric.help}" in text


def test_a_label_cannot_break_out_of_its_quotes() -> None:
    metrics = Metrics()
    metrics.update(0, Snapshot(0, (SeriesValue(REQUESTS, ('a"b\\c\nd', "p", "200", "ok"), 1),)))
    assert REQUESTS + r'{ended="ok",model="a\"b\\c\nd",provider="p",status="200"} 1.0' in lines(metrics)


def test_what_is_no_metric_of_ours_is_left_out() -> None:
    metrics = Metrics()
    stray = (
        SeriesValue("penstock_unheard_of", (), 1),
        SeriesValue(REQUESTS, ("too", "few"), 1),
        SeriesValue("penstock_request_duration_seconds", ("m", "p"), 1, (1, 2)),
    )
    metrics.update(0, Snapshot(0, stray))
    metrics.retire(0)
    metrics.update(0, Snapshot(0, stray))
    assert metrics.merged() == ()
