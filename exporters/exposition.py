"""Samples to text: the Prometheus and OpenMetrics formats, whichever the scraper asks for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family

from exporters.catalog import CATALOG, WALLCLOCK_SECONDS, Metric
from exporters.collector import Histogram, Runner, Sample


def render(samples: Iterable[Sample], accept: str | None) -> tuple[bytes, str]:
    """The text of all samples in the catalog's order, and its content type, chosen by an Accept header."""
    encode, content_type = choose_encoder(accept or "")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(samples))
    return encode(registry), content_type


def gather(runners: Iterable[Runner]) -> Iterator[Sample]:
    """Every collector's last snapshot and the service's own clock. Touches no source, so it never waits."""
    for runner in runners:
        yield from runner.samples()
    yield Sample(WALLCLOCK_SECONDS, {}, time.time())


class _Families:
    """What the client library takes for a collector."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for sample in self._samples:
            family = families.get(sample.metric.name)
            if family is None:
                family = families[sample.metric.name] = _family(sample.metric)
            _add(family, sample)
        yield from (families[name] for name in CATALOG if name in families)


def _family(metric: Metric) -> Family:
    suffix = {"counter": "_total", "info": "_info"}.get(metric.kind, "")
    return Family(metric.name.removesuffix(suffix), metric.help, metric.kind, metric.unit)


def _add(family: Family, sample: Sample) -> None:
    metric, labels, value = sample
    if not isinstance(value, Histogram):
        family.add_sample(metric.name, labels, value)
        return
    bounds = [*(str(float(bound)) for bound in metric.buckets), "+Inf"]
    for bound, count in zip(bounds, value.cumulative_counts, strict=True):
        family.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
    family.add_sample(f"{metric.name}_count", labels, value.cumulative_counts[-1])
    family.add_sample(f"{metric.name}_sum", labels, value.sum)
