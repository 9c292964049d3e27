"""Scenarios in a real Prometheus: made once in a directory, served from it as often as is wanted."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

import exporters
import trainer_hooks
from alerts import build
from alerts.rules import AlertRule
from alerts.thresholds import Thresholds
from trainvitals.child import ChildError, start_server
from trainvitals.scenarios import making, rules, story
from trainvitals.scenarios.making import MakingError
from trainvitals.scenarios.period import Period
from trainvitals.scenarios.tape import Tape, TapeError

STEP_SECONDS = 20.0
_MADE = "scenarios.json"
_BLOCKS = "blocks"


class Scenarios(NamedTuple):
    """A Prometheus that serves them, from `start` to `end` in unix seconds, every `step` seconds."""

    url: str
    start: float
    end: float
    step: float


@contextlib.contextmanager
def serve_scenarios(
    directory: Path,
    scenes: Sequence[str] = story.WHOLE_STORY,
    hours: float = story.HOURS,
    step_seconds: float = STEP_SECONDS,
) -> Iterator[Scenarios]:
    """Make the scenarios in the directory, unless they are there, and serve them on loopback.

    `scenes` are names of story.SCENES. Several may serve from one directory at once. Raises ChildError where
    Prometheus or promtool is missing or does not start, and MakingError where the making fails.
    """
    for name in ("prometheus", "promtool"):
        if shutil.which(name) is None:
            raise ChildError(f"not installed: {name}; sudo apt-get install prometheus")
    directory.mkdir(parents=True, exist_ok=True)
    asked = {"scenes": list(scenes), "hours": hours, "step": step_seconds, "code": _code()}
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        period = _made_before(directory, asked)
        if period is None:
            period = _make(directory, asked)
    with _prometheus(directory / _BLOCKS, period.step) as url:
        yield Scenarios(url, *period)


def _made_before(directory: Path, asked: Mapping[str, Any]) -> Period | None:
    """When the scenarios of the directory are, if they are whole, what is asked for, and of this code."""
    try:
        made = json.loads((directory / _MADE).read_text())
    except (OSError, ValueError):
        return None
    return Period(*made["period"]) if made["asked"] == asked else None


def _code() -> str:
    """Changes with what the scenarios are made of: trainings, what is published of them, and rules."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    digest.update(json.dumps(build.rule_files(Thresholds())).encode())
    return digest.hexdigest()


def sources() -> list[Path]:
    """The files whose code makes the samples."""
    packages = (__file__, exporters.__file__, trainer_hooks.__file__)
    return sorted(path for package in packages for path in Path(package).parent.rglob("*.py"))


def _make(directory: Path, asked: Mapping[str, Any]) -> Period:
    """Raises ChildError and MakingError."""
    blocks = directory / _BLOCKS
    (directory / _MADE).unlink(missing_ok=True)
    shutil.rmtree(blocks, ignore_errors=True)
    blocks.mkdir()
    step = asked["step"]
    end = time.time() // step * step
    period = Period(end - round(asked["hours"] * 3600 / step) * step, end, step)
    with tempfile.TemporaryDirectory(prefix="making-", dir=directory) as working:
        making.make_in_processes(Path(working), blocks, period, asked["scenes"])
        periods = [*making.before_story(period, asked["scenes"]), period]
        try:
            _evaluate(Path(working), periods, blocks)
        except TapeError as error:
            raise MakingError(str(error)) from error
        except httpx.HTTPError as error:
            raise MakingError(f"the rules could not be evaluated: {error}") from error
    (directory / _MADE).write_text(json.dumps({"period": period, "asked": asked}))
    return period


def _evaluate(working: Path, periods: Sequence[Period], blocks: Path) -> None:
    """Record what the rules make of it in these periods, and the alerts of the last."""
    period = periods[-1]
    groups = build.groups(Thresholds())
    for number, level in enumerate(rules.levels(groups)):
        with _prometheus(blocks, period.step) as url, Tape(working, f"level-{number}", blocks) as tape:
            for each in periods:
                rules.record(url, level, each, tape)
    alerts = [rule for group in groups for rule in group.rules if isinstance(rule, AlertRule)]
    with _prometheus(blocks, period.step) as url, Tape(working, "alerts", blocks) as tape:
        rules.alert(url, alerts, period, tape)


@contextlib.contextmanager
def _prometheus(blocks: Path, step: float) -> Iterator[str]:
    """The URL of one that serves the blocks, which it neither changes nor holds.

    What a scrape did not find any more is gone, as a stale marker would tell, which no text can hold: a
    sample counts for no longer than to the next scrape.
    """
    with tempfile.TemporaryDirectory(prefix="served-", dir=blocks.parent) as folder:
        data = Path(folder) / "data"
        shutil.copytree(blocks, data, copy_function=os.link)
        config = Path(folder) / "prometheus.yml"
        config.write_text(f"global: {{scrape_interval: {step:g}s, evaluation_interval: {step:g}s}}\n")
        child, url = start_server(
            "prometheus",
            lambda address: [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                "--storage.tsdb.retention.time=10y",
                f"--query.lookback-delta={round(step * 1000) - 1}ms",
                f"--web.listen-address={address}",
            ],
            Path(folder) / "prometheus.log",
        )
        try:
            yield url
        finally:
            child.stop()
