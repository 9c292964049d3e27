"""A fleet of any size in a database: one training that goes well and its node, many times over.

What a Prometheus has recorded of the scenarios is taken apart: the series of one node, of a GPU of it, of the
run on it and of a rank of that. Each becomes as many as the fleet has, with names of its own; the rest of the
scenarios, all that goes wrong there, stands beside them once. The last hours of the training are repeated
until there is a day: what grows goes on growing, all else begins anew.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import blocks
from tests.benchmarks.blocks import Course, Sample, Series
from trainvitals.child import loopback
from trainvitals.scenarios import story
from trainvitals.scenarios.served import Scenarios, serve_scenarios

# How a series ends whose target does not tell it any more: prometheus/model/value/value.go.
STALE = struct.unpack(">d", struct.pack(">Q", 0x7FF0000000000002))[0]

_HOUR = 3_600_000
# As Prometheus cuts them, and later joins them.
_BLOCK = 2 * _HOUR
# Of unix seconds: values between these are times.
_EARLIEST_TIME, _LATEST_TIME = 1.5e9, 4e9
_GROWING = ("_total", "_bucket", "_sum", "_count")
_TEMPLATE = story.FINE_TUNING.run
# Before all names of the scenarios, so that a dashboard opens with a run of the whole day.
_COPY = "agent-lora"
_STEP_SECONDS = 15.0


class Size(NamedTuple):
    """How large a fleet is, how long it is recorded, and of which scenes.

    `node` is the one whose training is repeated, `steady_seconds` the last of the scenes in which that makes
    nothing but progress.
    """

    nodes: int
    gpus_a_node: int
    runs: int
    hours: float
    scenes: Sequence[str]
    scene_hours: float
    node: str
    steady_seconds: int

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_a_node


WHOLE = Size(125, 8, 200, 24, story.WHOLE_STORY, story.HOURS, "node-c", 2 * 3600)
QUICK = Size(5, 8, 8, 1, (story.ten_minutes.__name__,), 1 / 6, "node-a", 6 * 60)


class Recorded(NamedTuple):
    """A series of the scenarios."""

    labels: Mapping[str, str]
    samples: Sequence[Sample]


class Made(NamedTuple):
    """What a fleet came to, and the time of its last samples in unix seconds."""

    end: float
    series: int
    samples: int
    megabytes: float


def make(folder: Path, size: Size) -> Made:
    """Write the fleet's database to `folder / "data"`; what is needed for it to `folder / "scenarios"`."""
    with serve_scenarios(folder / "scenarios", size.scenes, size.scene_hours, _STEP_SECONDS) as scenarios:
        recorded = list(_recorded(scenarios))
    end = round(scenarios.end * 1000)
    step = round(scenarios.step * 1000)
    start = end - round(size.hours * _HOUR)
    series = sorted(_fleet(recorded, size, start, end, step))
    newest = end // _BLOCK * _BLOCK
    # Of a day: one block of three quarters, those of two hours that are not joined yet, and what is new.
    cuts = sorted({start, *(cut for cut in (newest - 2 * _BLOCK, newest - _BLOCK, newest) if cut > start)})
    written = [
        blocks.write_block(folder / "data", series, first, last)
        for first, last in zip(cuts, [*cuts[1:], end + 1], strict=True)
    ]
    files = [path for block in written for path in block.rglob("*") if path.is_file()]
    samples = sum(chunk.samples for each in series for chunk in each.course.chunks)
    return Made(end / 1000, len(series), samples, sum(path.stat().st_size for path in files) / 2**20)


def _recorded(scenarios: Scenarios) -> Iterator[Recorded]:
    """All that the scenarios' Prometheus has, the moments in milliseconds."""
    window = math.ceil(scenarios.end - scenarios.start) + 1
    for name in _get(scenarios, "label/__name__/values"):
        found = _get(scenarios, "query", query=f"{name}[{window}s]", time=f"{scenarios.end:.3f}")
        for one in found["result"]:
            samples = [(round(at * 1000), float(value)) for at, value in one["values"]]
            yield Recorded(one["metric"], samples)


def _get(scenarios: Scenarios, path: str, **parameters: str) -> Any:
    answer = loopback.get(f"{scenarios.url}/api/v1/{path}", params=parameters, timeout=60)
    answer.raise_for_status()
    return answer.json()["data"]


def _fleet(recorded: Sequence[Recorded], size: Size, start: int, end: int, step: int) -> Iterator[Series]:
    [uuid] = {
        each.labels["uuid"]
        for each in recorded
        if each.labels.get("gpu") == "0" and each.labels.get("instance", "").startswith(f"{size.node}:")
    }
    for each in recorded:
        labels = each.labels
        of_node = labels.get("instance", "").startswith(f"{size.node}:")
        if not (labels["run"] == _TEMPLATE if "run" in labels else of_node):
            yield Series(tuple(sorted(labels.items())), _course(with_stale(each.samples, step, end)))
            continue
        if labels.get("rank", "0") != "0" or labels.get("uuid", uuid) != uuid:
            continue  # like the first
        course = _course(with_stale(repeated(each, start, end, size.steady_seconds * 1000), step, end))
        for copy in _copies(labels, size):
            yield Series(copy, course)


def _course(samples: Sequence[Sample]) -> Course:
    return blocks.pack(samples, _BLOCK)


def _copies(labels: Mapping[str, str], size: Size) -> Iterator[blocks.Labels]:
    """The labels of each node's, GPU's, run's or rank's series, of which these are the template's.

    The ranks of a run have a GPU each, one run's behind the other's.
    """
    of_gpu = "rank" in labels or "uuid" in labels
    ranks = size.gpus // size.runs
    if of_gpu:
        gpus = range(size.gpus)
    elif "run" in labels:
        gpus = range(0, size.gpus, ranks)
    else:
        gpus = range(0, size.gpus, size.gpus_a_node)
    for gpu in gpus:
        node, index = divmod(gpu, size.gpus_a_node)
        run, rank = divmod(gpu, ranks)
        own = {
            "instance": labels.get("instance", "").replace(f"{size.node}:", f"gpu-{node:03}:"),
            "run": f"{_COPY}-{run:03}",
            "rank": str(rank),
            "gpu": str(index),
            "uuid": f"GPU-{gpu:08x}-0000-4000-8000-{gpu:012x}",
        }
        yield tuple((name, own.get(name, value)) for name, value in sorted(labels.items()))


def repeated(series: Recorded, start: int, end: int, length: int) -> list[Sample]:
    """The last `length` milliseconds of a series, again and again from `start` to `end`.

    Counters and unix times that move go on where they were; all else begins anew.
    """
    last = [sample for sample in series.samples if sample[0] > end - length]
    times = math.ceil((end - start) / length)
    growth = 0.0
    if last and last[0][1] != last[-1][1]:
        if all(_EARLIEST_TIME < value < _LATEST_TIME for _, value in last):
            last = [(moment, value - times * length / 1000) for moment, value in last]
            growth = length / 1000
        elif series.labels["__name__"].endswith(_GROWING):
            growth = last[-1][1] - last[0][1]
    return [
        (moment - (times - number) * length, value + number * growth)
        for number in range(times + 1)
        for moment, value in last
        if moment - (times - number) * length > start
    ]


def with_stale(samples: Sequence[Sample], step: int, end: int) -> list[Sample]:
    """The samples, and a mark wherever the next scrape found nothing, as Prometheus leaves it."""
    marked: list[Sample] = []
    for place, (moment, value) in enumerate(samples, 1):
        marked.append((moment, value))
        after = samples[place][0] if place < len(samples) else end + step
        if after > moment + step:
            marked.append((moment + step, STALE))
    return marked
