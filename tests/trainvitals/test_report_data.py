from __future__ import annotations

from typing import Any

import pytest

from tests.trainvitals.test_run_table import NOW, a_run
from trainvitals.report_data import MOST_GPUS, RunData, collected, compared
from trainvitals.sources import Parameters, SourceError

GPU = {"gpu_uuid": "GPU-1", "rank": 0, "first_seen_at": NOW, "last_seen_at": NOW}


class Answers:
    """A source that knows one run."""

    name = "here"

    def __init__(self, *, seen_at: float | None = None, metrics: str = "", gpus: int = 0, **run: Any) -> None:
        self._seen_at = seen_at
        self._metrics = metrics
        self._answers: dict[str, Any] = {
            "/runs/tiny-gpt2": {**a_run(**run), "ranks": []},
            "/runs/tiny-gpt2/series": {"series": []},
            "/runs/tiny-gpt2/gpus": {"gpus": [GPU] * gpus},
            "/runs/tiny-gpt2/events": {"events": [], "next_cursor": None},
            "/gpus/GPU-1/series": {"series": []},
            "/alerts": {"alerts": []},
            "/compare": {"by": "step"},
        }

    def get(self, path: str, parameters: Parameters | None = None) -> Any:
        return self._answers[path]

    def text(self, path: str) -> str | None:
        return self._metrics

    def seen_at(self, run: str) -> float | None:
        return self._seen_at

    def close(self) -> None: ...


def collect(answers: Answers) -> RunData:
    return collected(answers, "tiny-gpt2", wall=lambda: NOW)


def test_a_living_run_is_told_of_as_it_is_now() -> None:
    data = collect(Answers())

    assert (data.now, data.is_past, data.run.eta_seconds) == (NOW, False, 10_800.0)


def test_a_run_of_a_database_is_told_of_as_it_was_seen_last_without_a_time_to_its_end() -> None:
    data = collect(Answers(seen_at=NOW - 500))

    assert (data.now, data.is_past, data.run.eta_seconds) == (NOW - 500, True, None)


def test_a_run_that_is_over_is_so_whenever_it_was_seen() -> None:
    assert not collect(Answers(seen_at=NOW - 500, state="killed", ended_at=NOW - 600)).is_past


def test_how_many_gpus_there_are_is_known_where_not_all_are_shown() -> None:
    data = collect(Answers(gpus=MOST_GPUS + 4))

    assert (len(data.gpus), data.gpus_known) == (MOST_GPUS, MOST_GPUS + 4)


def test_counters_are_what_the_service_publishes_of_the_run() -> None:
    counted = 'trainvitals_hook_errors_total{{run="{}",rank="{}"}} {}\n'
    metrics = (
        counted.format("tiny-gpt2", 0, 1) + counted.format("tiny-gpt2", 1, 2) + counted.format("x", 0, 5)
    )

    assert collect(Answers(metrics=metrics)).counted == {"trainvitals_hook_errors_total": 3.0}


def test_answers_that_are_none_of_ours_are_said_in_a_sentence() -> None:
    with pytest.raises(SourceError, match="what here answers is not understood"):
        collect(Answers(metrics="<html>{</html>"))
    with pytest.raises(SourceError, match="what here answers is not understood"):
        collect(Answers(step="many"))
    with pytest.raises(SourceError, match="what here answers is not understood"):
        compared(Answers(), ["tiny-gpt2", "other"])
