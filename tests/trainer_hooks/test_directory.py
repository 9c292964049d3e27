from __future__ import annotations

import os
import secrets
import shutil
import time
from pathlib import Path

import pytest

from tests.trainer_hooks.processes import ended, own_mounts
from trainer_hooks import directory, recording
from trainer_hooks.directory import KEPT_RUNS, KEPT_SECONDS, MOST_RUNS, prune
from trainer_hooks.recording import SLOT, Recorder

HOUR = 3600.0


def recorder(parent: Path, run: str) -> Recorder:
    static = recording.this_process(run=run, node="node", rank=0, local_rank=0, world_size=1, info={})
    return Recorder(parent, static, ring_capacity=1, mapped=True)


def runs_of_age(parent: Path, count: int, age_seconds: float, name: str = "run") -> list[str]:
    """Folders of runs that ended this long ago, the first the longest."""
    names = [f"{name}-{number:03}" for number in range(count)]
    for position, each in enumerate(names):
        events = parent / each / "node" / "rank-0.1.events.jsonl"
        events.parent.mkdir(parents=True)
        events.touch()
        ended_at = time.time() - age_seconds + position
        os.utime(events, (ended_at, ended_at))
    return names


def left(parent: Path) -> set[str]:
    return {path.name for path in parent.iterdir()}


def test_the_directory_that_is_chosen_stands_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = tmp_path / "not" / "yet"
    monkeypatch.setenv("TRAINVITALS_DIR", str(chosen))

    assert directory.candidates() == [chosen]
    assert directory.choose_directory() == chosen
    assert chosen.is_dir()


def test_a_chosen_directory_that_cannot_be_written_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "file" / "below"))

    with pytest.raises(OSError, match=r"TRAINVITALS_DIR=.*file/below cannot be written; make it or choose"):
        directory.choose_directory()


def test_the_service_looks_where_any_recorder_might_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TRAINVITALS_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = directory.candidates()

    assert found[0] == Path("/run/trainvitals")
    assert found[1] == tmp_path / "runtime" / "trainvitals"
    assert found[2] == Path(f"/dev/shm/trainvitals-{os.getuid()}")
    assert found[-1] == tmp_path / "state" / "trainvitals"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert directory.candidates()[1] == found[2]
    assert directory.candidates()[-1] == tmp_path / ".local" / "state" / "trainvitals"


CHOICES = """
    import json, os, subprocess, sys
    from pathlib import Path
    from trainer_hooks.directory import choose_directory

    runtime, installed = Path(sys.argv[1]), Path("/run/trainvitals")
    os.environ.pop("TRAINVITALS_DIR", None)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    os.environ["XDG_STATE_HOME"] = sys.argv[2]

    def lay(folder, size):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)

    def choice():
        try:
            return str(choose_directory())
        except OSError as error:
            return str(error)

    choices = []
    for folder in ("/run", "/dev/shm", runtime):
        lay(folder, "1g")
    choices.append(choice())                  # nobody installed the service: the user's own tmpfs
    installed.mkdir()
    choices.append(choice())                  # the installed one first
    lay(installed, "200m")
    lay(runtime, "200m")
    choices.append(choice())                  # those are too small: shared memory
    lay("/dev/shm", "200m")
    choices.append(choice())                  # no room in any tmpfs: the installed one all the same
    lay("/run", "200m")
    choices.append(choice())                  # else the home
    subprocess.run(["mount", "-o", "bind,ro", sys.argv[2], sys.argv[2]], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", sys.argv[2]], check=True)
    choices.append(choice())
    print(json.dumps(choices))
"""


def test_a_recorder_takes_the_first_tmpfs_with_room_then_what_can_be_written(tmp_path: Path) -> None:
    runtime, state = tmp_path / "runtime", tmp_path / "state"
    runtime.mkdir()
    state.mkdir()

    choices, _ = ended(CHOICES, tmp_path, runtime, state, prefix=own_mounts())

    assert choices == [
        str(runtime / "trainvitals"),
        "/run/trainvitals",
        "/dev/shm/trainvitals-0",
        "/run/trainvitals",
        str(state / "trainvitals"),
        "no directory for recordings can be written; set TRAINVITALS_DIR to one",
    ]


@pytest.mark.parametrize("as_link", [False, True])
def test_a_directory_in_shared_memory_that_another_user_made_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_link: bool
) -> None:
    victim = 1_000_000 + secrets.randbelow(1_000_000)
    planted = Path(f"/dev/shm/trainvitals-{victim}")
    own = tmp_path / "own"  # what a planted link would lead to: a folder of the victim's
    own.mkdir()
    if os.geteuid() == 0:
        os.chown(own, victim, -1)
    try:
        planted.symlink_to(own) if as_link else planted.mkdir()
    except OSError:
        pytest.skip("needs a /dev/shm")
    try:
        monkeypatch.delenv("TRAINVITALS_DIR", raising=False)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.setattr(os, "getuid", lambda: victim)

        assert planted in directory.candidates()
        assert directory.choose_directory() != planted
    finally:
        planted.unlink() if as_link else shutil.rmtree(planted)


def test_old_runs_beyond_the_newest_20_are_removed(tmp_path: Path) -> None:
    old = runs_of_age(tmp_path, KEPT_RUNS + 5, KEPT_SECONDS + HOUR)

    assert sorted(prune(tmp_path)) == old[:5]
    assert left(tmp_path) == set(old[5:])
    assert prune(tmp_path) == []


def test_runs_of_the_last_26_hours_stay_however_many(tmp_path: Path) -> None:
    recent = runs_of_age(tmp_path, KEPT_RUNS + 5, KEPT_SECONDS - HOUR)

    assert prune(tmp_path) == []
    assert left(tmp_path) == set(recent)
    assert sorted(prune(tmp_path, now=time.time() + 2 * HOUR)) == recent[:5]


def test_beyond_200_an_ended_run_goes_at_any_age(tmp_path: Path) -> None:
    recent = runs_of_age(tmp_path, MOST_RUNS + 3, HOUR)

    assert sorted(prune(tmp_path)) == recent[:3]
    assert left(tmp_path) == set(recent[3:])


def test_a_run_that_is_alive_is_never_removed_and_goes_when_it_has_ended(tmp_path: Path) -> None:
    living = recorder(tmp_path, "living")
    runs_of_age(tmp_path, MOST_RUNS, -2 * HOUR)  # newer ones
    assert living.path is not None
    in_a_week = time.time() + 7 * 24 * HOUR

    assert "living" not in prune(tmp_path, now=in_a_week)
    assert living.path.exists()
    living.close(recording.FINISHED, time.monotonic_ns())
    runs_of_age(tmp_path, MOST_RUNS, -2 * HOUR, "newer")
    assert "living" in prune(tmp_path)


def test_a_long_run_counts_from_its_last_sign_of_life_not_from_its_start(tmp_path: Path) -> None:
    long_run = recorder(tmp_path, "long")
    assert long_run.path is not None
    start_ns = long_run.static.start_monotonic_ns
    long_run.unsigned[SLOT["last_progress_ns"]] = start_ns + int(40 * HOUR * 1e9)
    long_run.disarm()  # it dies: nothing tells of its end, and a store into a mapping no time
    runs_of_age(tmp_path, KEPT_RUNS, -45 * HOUR)
    started = time.time()

    assert "long" not in prune(tmp_path, now=started + 65 * HOUR)
    assert "long" in prune(tmp_path, now=started + 67 * HOUR)


def test_a_broken_recording_does_not_keep_its_run(tmp_path: Path) -> None:
    runs_of_age(tmp_path, KEPT_RUNS, -HOUR)
    broken = tmp_path / "broken" / "node" / "rank-0.1.steps"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no recording")

    assert prune(tmp_path, now=time.time() + KEPT_SECONDS / 2) == []
    assert "broken" in prune(tmp_path, now=time.time() + KEPT_SECONDS + HOUR)


def test_another_users_runs_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs_of_age(tmp_path, KEPT_RUNS + 5, KEPT_SECONDS + HOUR)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)

    assert prune(tmp_path) == []


def test_what_is_no_run_stays_and_does_not_count(tmp_path: Path) -> None:
    runs_of_age(tmp_path, KEPT_RUNS - 1, 0)
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    (elsewhere / "precious").mkdir(parents=True)
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "history.db").touch()
    (tmp_path / ".hidden").mkdir()
    last = runs_of_age(tmp_path, 1, KEPT_SECONDS + HOUR, "last")
    before = left(tmp_path)

    assert prune(tmp_path) == []
    assert left(tmp_path) == before
    assert (elsewhere / "precious").exists()
    assert prune(tmp_path / "absent") == []
    assert last[0] in before


def test_folders_that_are_no_runs_are_never_touched_however_old(tmp_path: Path) -> None:
    for number in range(MOST_RUNS + KEPT_RUNS):
        project = tmp_path / f"project-{number}" / "node"
        project.mkdir(parents=True)
        (project / "thesis.txt").touch()
        os.utime(project / "thesis.txt", (0, 0))
    before = sorted(tmp_path.rglob("*"))

    assert prune(tmp_path) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_what_somebody_put_beside_a_recording_stays(tmp_path: Path) -> None:
    (oldest, *_) = runs_of_age(tmp_path, KEPT_RUNS + 1, KEPT_SECONDS + HOUR)
    note = tmp_path / oldest / "node" / "note.txt"
    note.touch()
    os.utime(note, (0, 0))

    assert prune(tmp_path) == [oldest]
    assert [path for path in (tmp_path / oldest).rglob("*") if path.is_file()] == [note]


def test_ranks_that_start_at_once_remove_the_same_runs_without_a_fault(tmp_path: Path) -> None:
    pruner = """
    import json, sys
    from multiprocessing import get_context
    from pathlib import Path
    from trainer_hooks.directory import prune

    def start(queue, barrier):
        barrier.wait()
        try:
            queue.put(len(prune(Path(sys.argv[1]))))
        except BaseException as error:
            queue.put(repr(error))

    if __name__ == "__main__":
        context = get_context("fork")
        queue, barrier = context.SimpleQueue(), context.Barrier(4)
        ranks = [context.Process(target=start, args=(queue, barrier)) for _ in range(4)]
        for rank in ranks:
            rank.start()
        print(json.dumps([queue.get() for _ in ranks]))
        for rank in ranks:
            rank.join()
    """
    parent = tmp_path / "recordings"
    parent.mkdir()
    runs_of_age(parent, KEPT_RUNS + 80, KEPT_SECONDS + HOUR)

    removed, _ = ended(pruner, tmp_path, parent)

    assert all(isinstance(count, int) for count in removed), removed
    assert sum(removed) >= 80
    assert len(left(parent)) == KEPT_RUNS
