"""What a Prometheus keeps of a page that it scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from exporters import exposition
from exporters.collector import Histogram, Sample


class Page:
    """The lines of one target's page, each scrape, with the target's labels.

    How the service writes a series is asked of its exposition once: to write them all anew is most of what
    a scrape takes.
    """

    def __init__(self, target: Mapping[str, str]) -> None:
        self._target = ",".join(f'{name}="{value}"' for name, value in target.items())
        self._known: dict[tuple[object, ...], list[str]] = {}

    def lines(self, samples: Iterable[Sample]) -> Iterator[str]:
        """A series, a space and its value, each."""
        for sample in samples:
            metric, labels, value = sample
            key = (metric.name, *labels.items())
            series = self._known.get(key)
            if series is None:
                series = self._known[key] = list(self._written(sample))
            if isinstance(value, Histogram):
                counts = value.cumulative_counts
                for name, number in zip(series, (*counts, counts[-1], value.sum), strict=True):
                    yield f"{name} {float(number)!r}"
            else:
                yield f"{series[0]} {float(value)!r}"

    def _written(self, sample: Sample) -> Iterator[str]:
        """The series of a sample; of a histogram its buckets, its count and its sum."""
        text, _ = exposition.render([sample], None)
        for line in text.decode().splitlines():
            if not line.startswith("#"):
                name, brace, labels = line.rpartition(" ")[0].partition("{")
                yield f"{name}{{{self._target}," + labels if brace else f"{name}{{{self._target}}}"
