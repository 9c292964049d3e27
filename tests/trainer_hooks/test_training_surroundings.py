"""What befalls the recording's directory in the middle of a training changes nothing that it computes."""

from __future__ import annotations

import os
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.trainer_hooks.processes import ended, own_mounts
from tests.trainer_hooks.recorded import only
from trainer_hooks import recording
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import FINISHED, STEPS_NAME

# Trains a small network by hand with and without the hook, something happening to the directory after a third
# of the steps and something else after two thirds; prints what came of it.
TRAINS = """
import contextlib, errno, json, os, random, shutil, subprocess, sys
from pathlib import Path
from trainer_hooks import recording
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import EventReader, RecordingReader, find

directory = Path(sys.argv[1])
directory.mkdir(exist_ok=True)
if sys.argv[2] == "unmapped":
    recording.MAPPABLE = ()

def lay_a_file_system(*options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", directory], check=True)

def remount(*options):
    subprocess.run(["mount", "-o", ",".join(("remount", *options)), directory], check=True)

def fill():
    with contextlib.suppress(OSError), open(directory / "filling", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass

def empty():
    (directory / "filling").unlink()

def train(monitor, first, second):
    random.seed(0)
    weights = [random.random() for _ in range(4)]
    for step in range(300):
        if step == 100:
            first()
        if step == 200:
            second()
        with monitor.step() if monitor else contextlib.nullcontext():
            inputs = [random.gauss(0, 1) for _ in weights]
            error = sum(weight * each for weight, each in zip(weights, inputs)) - 1
            weights = [weight - 0.01 * error * each for weight, each in zip(weights, inputs)]
            if monitor:
                monitor.batch(loss=error * error, samples=1)
                monitor.log(**{f"scalar_{step // 10}": error})
        if monitor and step % 10 == 0:
            monitor.event("noted", number=step)
            with monitor.checkpoint(directory), monitor.phase("evaluation"):
                monitor.evaluated(loss=error * error)
    return weights, random.getstate()

def nothing():
    pass

def compare(first, second=nothing):
    expected = train(None, nothing, nothing)
    monitor = Monitor(run="run", directory=directory)
    assert monitor.recording
    reader = RecordingReader(next(find(directory)))
    found = train(monitor, first, second)
    monitor.finish()
    live = reader.live()
    records, _ = reader.steps()
    print(json.dumps({
        "same": found == expected, "mapped": monitor._recorder.mapped, "steps": live.steps,
        "records": len(records), "outcome": live.outcome, "faults": live.hook_errors,
        "dropped": live.hook_dropped, "alive": reader.alive(),
    }))
"""
KINDS = ["mapped", "unmapped"]


def befalls(script: str, folder: Path, kind: str, mounts: bool = True) -> tuple[dict[str, Any], list[str]]:
    """What came of the training, and the lines it wrote to stderr; every step of it is recorded."""
    words, errors = ended(
        textwrap.dedent(TRAINS) + textwrap.dedent(script),
        folder,
        folder / "recordings",
        kind,
        prefix=own_mounts() if mounts else (),
    )
    assert words["same"], "the training computed something else"
    assert words["mapped"] == (kind == "mapped")
    assert (words["steps"], words["records"], words["outcome"]) == (300, 300, FINISHED)
    assert not words["alive"]
    return words, errors.splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_vanishes_costs_no_step(tmp_path: Path, kind: str) -> None:
    words, lines = befalls("compare(lambda: shutil.rmtree(directory))", tmp_path, kind, mounts=False)
    assert (words["faults"], words["dropped"], lines) == (0, 0, [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_whose_permissions_go_costs_no_step(tmp_path: Path, kind: str) -> None:
    script = """
    if os.getuid() == 0:  # whom permission bits do not bind
        os.chmod(directory, 0o777)
        os.chmod(directory.parent, 0o777)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.chdir("/")
    def close():
        for each in sorted(directory.rglob("*")):
            if each.is_file():
                each.chmod(0)
        for each in directory.iterdir():
            each.chmod(0)
    compare(close)
    """
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        Path(folder).chmod(0o755)
        words, lines = befalls(script, Path(folder), kind, mounts=False)
    assert (words["faults"], words["dropped"], lines) == (0, 0, [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_system_that_fills_and_empties_costs_events_and_at_most_one_line(
    tmp_path: Path, kind: str
) -> None:
    words, lines = befalls('lay_a_file_system("size=6m"); compare(fill, empty)', tmp_path, kind)
    assert words["dropped"] > 0
    assert len(lines) <= 1  # none where the first line to find no room was half written
    assert all(line.startswith("a fault in the telemetry, counted from now on: OSError") for line in lines)


def test_a_file_system_turned_read_only_costs_a_mapped_recording_nothing(tmp_path: Path) -> None:
    """The kernel lets nobody do so who does not force it, while a file is open for writing."""
    script = """
    lay_a_file_system("size=8m")
    def read_only():
        if subprocess.run(["mount", "-o", "remount,ro", directory], capture_output=True).returncode == 0:
            raise SystemExit("a busy file system was turned read-only")
    compare(read_only)
    """
    words, lines = befalls(script, tmp_path, "mapped")
    assert (words["faults"], words["dropped"], lines) == (0, 0, [])


def test_writes_that_begin_to_fail_are_counted_and_told_once(tmp_path: Path) -> None:
    """As on a network file system that is gone, or turned read-only by an error of its disk."""
    script = """
    pwrite, write = os.pwrite, os.write
    def refuse(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    def fail():
        os.pwrite = os.write = refuse
    def recover():
        os.pwrite, os.write = pwrite, write
    compare(fail, recover)
    """
    words, errors = ended(
        textwrap.dedent(TRAINS) + textwrap.dedent(script), tmp_path, tmp_path / "recordings", "unmapped"
    )
    assert words["same"]
    assert words["faults"] >= 200  # the record and the totals of each of a hundred steps
    assert (words["steps"], words["records"], words["outcome"]) == (300, 200, FINISHED)
    assert len(errors.splitlines()) == 1


def test_a_recorder_opens_beside_whatever_somebody_has_laid_into_its_folder(tmp_path: Path) -> None:
    with Monitor(run="run", directory=tmp_path):
        pass
    (first,) = recording.find(tmp_path)
    folder = first.parent
    os.mkfifo(folder / "rank-0.2.steps")
    (folder / "rank-0.3.steps").symlink_to("/dev/full")
    (folder / "rank-0.4.steps").mkdir()
    (folder / "rank-0.5.steps").write_bytes(os.urandom(4096))
    (folder / "rank-0.6.events.jsonl").symlink_to(tmp_path / "elsewhere")
    with (folder / "rank-0.7.steps").open("wb") as sparse:
        sparse.truncate(1 << 40)
    (folder / "rank-0.8.steps").write_bytes(b"")
    (folder / "rank-0.8.steps").chmod(0)
    before = sorted(path.name for path in folder.iterdir())

    with Monitor(run="run", directory=tmp_path) as monitor:
        monitor.end_step()

    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*before, "rank-0.9.steps", "rank-0.9.events.jsonl"]
    )
    assert not (tmp_path / "elsewhere").exists()
    reader = recording.RecordingReader(folder / "rank-0.9.steps")
    assert (reader.live().steps, reader.live().outcome) == (1, FINISHED)
    reader.close()


@pytest.mark.parametrize("what", ["link to a folder", "link to nothing", "file"])
@pytest.mark.parametrize("where", ["run", "node"])
def test_a_folder_of_the_recording_that_is_none_turns_the_telemetry_off_or_is_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, where: str
) -> None:
    directory, elsewhere = tmp_path / "recordings", tmp_path / "elsewhere"
    with Monitor(run="run", directory=directory):
        pass
    node = only(directory).static.node
    hostile = directory / "run" if where == "run" else directory / "run" / node
    hostile.rename(tmp_path / "before")
    if what == "file":
        hostile.write_text("no folder")
    else:
        if what == "link to a folder":
            (elsewhere / node).mkdir(parents=True)
        hostile.symlink_to(elsewhere)

    with Monitor(run="run", directory=directory) as monitor:
        monitor.end_step()

    lines = [each.getMessage() for each in caplog.records if each.name == "trainvitals"]
    if monitor.run is None:
        assert len(lines) == 1
        assert lines[0].startswith("telemetry is off for this run")
    else:
        assert lines == []
        left = [path for path in elsewhere.rglob("*") if path.is_file()]
        assert {path.name for path in left if STEPS_NAME.fullmatch(path.name)} == {"rank-0.1.steps"}
