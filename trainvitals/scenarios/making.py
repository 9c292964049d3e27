"""Scrape scenes into blocks of a database, in two processes: `python -m trainvitals.scenarios.making`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trainvitals.scenarios.fleet import Fleet, scrape_others
from trainvitals.scenarios.period import Period
from trainvitals.scenarios.story import LONG_RUN_SECONDS, SCENES, long_run
from trainvitals.scenarios.tape import Tape, TapeError

_PROCESSES = 2
# Of a run's past, the hours that rules look at sample by sample, and how often before that.
_CLOSELY_FOR_SECONDS = 4.5 * 3600
_RARELY_SECONDS = 1800.0


class MakingError(Exception):
    """A process that makes scenes has failed; the message is the end of what it said."""


def make(working: Path, blocks: Path, period: Period, scenes: Sequence[str], *, with_others: bool) -> None:
    """Make these scenes; `with_others` what there is once in a fleet: Prometheus itself and the like."""
    before = before_story(period, scenes)
    fleet = Fleet(working, period.start, min(each.start for each in (*before, period)))
    try:
        for scene in scenes:
            SCENES[scene](fleet)
        with Tape(working, "scraped", blocks) as tape:
            for each in before:
                for at in each.moments():
                    fleet.advance(at)
                    fleet.scrape(tape, at)
            for at in period.moments():
                fleet.advance(at)
                fleet.scrape(tape, at)
                if with_others:
                    scrape_others(tape, at, at - period.start)
    finally:
        fleet.close()


def before_story(period: Period, scenes: Sequence[str]) -> list[Period]:
    """What is scraped before the story: of a run that has trained for a day, at first now and then."""
    if long_run.__name__ not in scenes:
        return []
    # On moments at which the rules are evaluated too.
    rarely = period.start // _RARELY_SECONDS * _RARELY_SECONDS
    start = rarely - round(LONG_RUN_SECONDS / _RARELY_SECONDS) * _RARELY_SECONDS
    closely = rarely - _CLOSELY_FOR_SECONDS
    return [
        Period(start, closely - _RARELY_SECONDS, _RARELY_SECONDS),
        Period(closely, period.start - period.step, period.step),
    ]


def make_in_processes(working: Path, blocks: Path, period: Period, scenes: Sequence[str]) -> None:
    """Raises MakingError."""
    processes = []
    for number in range(min(_PROCESSES, len(scenes))):
        part = working / str(number)
        part.mkdir()
        command = [sys.executable, "-m", __name__, str(part), str(blocks), *map(str, period)]
        others = ["--with-others"] if number == 0 else []
        processes.append(
            subprocess.Popen(
                [*command, *others, "--", *scenes[number::_PROCESSES]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, words in zip(processes, said, strict=True):
        if process.returncode != 0:
            raise MakingError("\n".join(words.splitlines()[-15:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("working", type=Path)
    parser.add_argument("blocks", type=Path)
    parser.add_argument("period", type=float, nargs=3)
    parser.add_argument("--with-others", action="store_true")
    parser.add_argument("scenes", nargs="+", choices=list(SCENES))
    given = parser.parse_args()
    try:
        make(given.working, given.blocks, Period(*given.period), given.scenes, with_others=given.with_others)
    except TapeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
