"""Write METRICS.md out of the catalog: `python -m exporters.metrics_page [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from exporters import generated
from exporters.catalog import CATALOG, Metric, Scope

ROOT = Path(__file__).resolve().parents[1]
NAME = "METRICS.md"
COMMAND = "python -m exporters.metrics_page"

_HEAD = """\
# Metrics

<!-- Written by `python -m exporters.metrics_page` out of exporters/catalog.py. -->

What `trainvitals serve` publishes on `/metrics`. Units are base units; counters end in `_total`; what is not
known is an absent series, never NaN and never 0. *OTel* is the name in OpenTelemetry's semantic conventions,
where they have one.
"""
_SCOPES: dict[Scope, tuple[str, str]] = {
    "run": (
        "Runs",
        "Published by the node of rank 0. At most 150 series a run, and 64 scalars of the user's own.",
    ),
    "rank": ("Ranks", "At most 45 series a rank."),
    "gpu": (
        "GPUs",
        "`gpu` is NVML's index, `uuid` NVML's own. At most 60 series a GPU, and two more for each XID seen; "
        "those that name a rank are of that rank's budget. "
        "Why one is missing, `nvidia_gpu_metric_unsupported` says.",
    ),
    "mig": (
        "MIG instances",
        "Beside the series of the GPU that is divided: at most 8 an instance. `mig_instance` is NVML's "
        "number of the GPU instance.",
    ),
    "service": ("The service itself", ""),
}


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for scope, (title, text) in _SCOPES.items():
        metrics = [metric for metric in CATALOG.values() if metric.scope == scope]
        parts.append("\n".join([f"## {title}", "", *([text, ""] if text else []), *_table(metrics), ""]))
    return "\n".join(parts)


def _table(metrics: list[Metric]) -> list[str]:
    with_otel = any(metric.otel for metric in metrics)
    columns = ["name", "type", "labels", "unit", "meaning", "source", *(["OTel"] if with_otel else [])]
    rows = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for metric in metrics:
        kept = " Kept for 25 h after the run's end." if metric.lifecycle else ""
        cells = [
            f"`{metric.name}`",
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.unit,
            f"{metric.help}{kept}".replace("|", r"\|"),
            metric.source,
            *([f"`{metric.otel}`" if metric.otel else ""] if with_otel else []),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main(arguments: Sequence[str] | None = None, directory: Path = ROOT) -> int:
    """The command; returns its exit status."""
    return generated.main(COMMAND, directory, {NAME: page()}, NAME, arguments)


if __name__ == "__main__":
    sys.exit(main())
