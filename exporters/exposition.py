"""Samples to text: the Prometheus and OpenMetrics formats, whichever the scraper asks for.

Written here because it is most of what a scrape takes: the client library, which reads every page back in the
tests, needs three times as long.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator

from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from exporters.catalog import CATALOG, WALLCLOCK_SECONDS, Metric
from exporters.collector import Histogram, Runner, Sample

_SUFFIX = {"counter": "_total", "info": "_info"}  # of a sample, not of its family
_CLASSIC_TYPES = {"info": "gauge"}
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_SPECIAL = re.compile(r'[\\\n"]').search
_HELP_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n"})
_PLACE = {name: place for place, name in enumerate(CATALOG)}


def render(samples: Iterable[Sample], accept: str | None) -> tuple[bytes, str]:
    """The text of all samples in the catalog's order, and its content type, chosen by an Accept header."""
    _, content_type = choose_encoder(accept or "")
    is_openmetrics = content_type.startswith("application/openmetrics-text")
    if is_openmetrics:
        content_type = CONTENT_TYPE_LATEST  # whatever later version was asked for
    families: dict[str, list[Sample]] = {}
    for sample in samples:
        families.setdefault(sample.metric.name, []).append(sample)
    lines: list[str] = []
    for name in sorted(families, key=lambda name: _PLACE.get(name, len(_PLACE))):
        family = families[name]
        lines += _head(family[0].metric, is_openmetrics)
        for sample in family:
            _add(lines, sample)
    if is_openmetrics:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n" if lines else "").encode(), content_type


def gather(runners: Iterable[Runner]) -> Iterator[Sample]:
    """Every collector's last snapshot and the service's own clock. Touches no source, so it never waits."""
    for runner in runners:
        yield from runner.samples()
    yield Sample(WALLCLOCK_SECONDS, {}, time.time())


def _head(metric: Metric, is_openmetrics: bool) -> list[str]:
    if not is_openmetrics:
        kind = _CLASSIC_TYPES.get(metric.kind, metric.kind)
        return [
            f"# HELP {metric.name} {metric.help.translate(_HELP_ESCAPED)}",
            f"# TYPE {metric.name} {kind}",
        ]
    family = metric.name.removesuffix(_SUFFIX.get(metric.kind, ""))
    # Names that are not ours may lack what OpenMetrics wants of a counter.
    kind = "unknown" if metric.kind == "counter" and family == metric.name else metric.kind
    head = [f"# HELP {family} {metric.help.translate(_ESCAPED)}", f"# TYPE {family} {kind}"]
    return [*head, f"# UNIT {family} {metric.unit}"] if metric.unit else head


def _add(lines: list[str], sample: Sample) -> None:
    metric, labels, value = sample
    if not isinstance(value, Histogram):
        lines.append(f"{metric.name}{_labels(labels)} {_number(value)}")
        return
    bounds = [*(str(float(bound)) for bound in metric.buckets), "+Inf"]
    for bound, count in zip(bounds, value.cumulative_counts, strict=True):
        lines.append(f"{metric.name}_bucket{_labels({**labels, 'le': bound})} {_number(count)}")
    of_all = _labels(labels)
    lines.append(f"{metric.name}_count{of_all} {_number(value.cumulative_counts[-1])}")
    lines.append(f"{metric.name}_sum{of_all} {_number(value.sum)}")


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    text = ",".join([f'{name}="{_escaped(labels[name])}"' for name in sorted(labels)])
    return f"{{{text}}}"


def _escaped(text: str) -> str:
    # Almost none needs it, and to look costs less than to translate.
    return text.translate(_ESCAPED) if _SPECIAL(text) else text


def _number(value: float) -> str:
    text = repr(float(value))
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text, text)
