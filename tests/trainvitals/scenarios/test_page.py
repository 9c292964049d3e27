"""What is scraped is what the service's exposition writes, each scrape, with the target's labels."""

from __future__ import annotations

from exporters import catalog, exposition
from exporters.collector import Histogram, Sample
from trainvitals.scenarios.page import Page

COUNTS = range(1, len(catalog.TRAINING_STEP_DURATION_SECONDS.buckets) + 2)
FIRST = [
    Sample(catalog.TRAINING_STEP_DURATION_SECONDS, {"run": "a"}, Histogram(list(COUNTS), 12.5)),
    Sample(catalog.TRAINING_LOSS, {"run": 'with "quotes"'}, 1.25),
    Sample(catalog.TRAINING_LOSS, {"run": "b"}, 2),
    Sample(catalog.WALLCLOCK_SECONDS, {}, 1.8e9),
]


def without_target(lines: list[str]) -> list[str]:
    return sorted(line.replace('job="x",', "").replace('{job="x"}', "") for line in lines)


def written(samples: list[Sample]) -> list[str]:
    text, _ = exposition.render(samples, None)
    return sorted(line for line in text.decode().splitlines() if not line.startswith("#"))


def test_a_page_is_scraped_again_and_again() -> None:
    page = Page({"job": "x"})
    grown = Histogram([2 * count for count in COUNTS], 30.0)
    second = [FIRST[0]._replace(value=grown), FIRST[1]._replace(value=0.5), FIRST[3]]

    for samples in (FIRST, second):
        lines = list(page.lines(samples))
        assert without_target(lines) == written(samples)
        assert all('job="x"' in line for line in lines)
