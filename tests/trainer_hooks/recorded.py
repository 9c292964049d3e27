"""What a test reads back of a recording."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trainer_hooks import recording
from trainer_hooks.recording import Live, Static, StepRecord


class Recorded(NamedTuple):
    """One recording as its reader sees it."""

    static: Static
    live: Live
    steps: list[StepRecord]
    events: list[dict[str, object]]
    alive: bool

    def of(self, kind: str) -> list[dict[str, object]]:
        """The events of this kind."""
        return [event for event in self.events if event["event"] == kind]

    def told(self, fact: str) -> list[object]:
        """What was said of the run under this name, from first to last: other facts may lie between."""
        return [each[fact] for each in (self.static.info, *self.of("info")) if fact in each]


def recorded(directory: Path) -> list[Recorded]:
    """The recordings below a directory, in the order of their names."""
    found = []
    for path in recording.find(directory):
        reader = recording.RecordingReader(path)
        steps, _ = reader.steps()
        found.append(
            Recorded(reader.static, reader.live(), steps, recording.EventReader(path).new(), reader.alive())
        )
        reader.close()
    return found


def only(directory: Path) -> Recorded:
    """The one recording below a directory."""
    (found,) = recorded(directory)
    return found


def without_a_fault(directory: Path) -> list[Recorded]:
    """The recordings below a directory, of which the hook counted no fault."""
    found = recorded(directory)
    assert [(each.live.hook_errors, each.live.hook_dropped) for each in found] == [(0, 0)] * len(found)
    return found


def clean(directory: Path) -> Recorded:
    """The one recording below a directory, of which the hook counted no fault."""
    (found,) = without_a_fault(directory)
    return found


def scalars(seen: Recorded) -> dict[object, float | None]:
    """The numbers that were recorded under names of the training's own."""
    return {event["name"]: seen.live.scalars[int(str(event["slot"]))] for event in seen.of("scalar")}


def every_byte(directory: Path) -> bytes:
    """All files below a directory, one after the other."""
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())
