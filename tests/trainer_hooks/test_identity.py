from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer_hooks.processes import ended
from trainer_hooks import identity
from trainer_hooks.recording import NAME_PATTERN

IDENTIFY = """
    import json, os, subprocess, sys
    from trainer_hooks.identity import identify
"""
RANK_OF_A_LAUNCH = "from trainer_hooks.identity import identify; print(identify(name='m').run)"


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in list(os.environ):
        if key.startswith(("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_", "TORCHELASTIC_", "TRAINVITALS_")):
            monkeypatch.delenv(key)


def test_the_callers_run_comes_first_then_the_environments_then_the_launchers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in (("SLURM_JOB_ID", "42"), ("SLURM_STEP_ID", "3"), ("SLURM_STEP_NUM_TASKS", "2")):
        monkeypatch.setenv(key, value)
    assert identity.identify(name="m").run == "slurm-42.3"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "elastic job/7")
    assert identity.identify(name="m").run == "elastic_job_7"
    monkeypatch.setenv("TRAINVITALS_RUN", "chosen")
    assert identity.identify(name="m").run == "chosen"
    assert identity.identify(run="mine", name="m").run == "mine"


def test_the_run_id_that_torchrun_gives_to_every_launch_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    run = identity.identify(name="model").run

    assert run.startswith("model-")
    assert identity.identify(name="model").run == run


@pytest.mark.parametrize("run", ["a b", "../up", ".hidden", "x" * 65, "ä", "a\n"])
def test_a_run_that_could_not_be_a_folder_and_a_label_is_refused_with_the_pattern(
    monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    with pytest.raises(ValueError, match="must match"):
        identity.identify(run=run)
    monkeypatch.setenv("TRAINVITALS_RUN", run)
    with pytest.raises(ValueError, match="must match"):
        identity.identify()


def test_rank_and_world_size_come_from_the_caller_then_torchrun_then_slurm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def numbers(rank: int | None = None, world_size: int | None = None) -> tuple[int, int, int]:
        who = identity.identify(run="run", rank=rank, world_size=world_size)
        return who.rank, who.local_rank, who.world_size

    assert numbers() == (0, 0, 1)
    for key, value in (("SLURM_PROCID", "5"), ("SLURM_LOCALID", "1"), ("SLURM_NTASKS", "16")):
        monkeypatch.setenv(key, value)
    assert numbers() == (0, 0, 1)  # as at the shell of sbatch or salloc
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert numbers() == (5, 1, 16)
    for key, value in (("RANK", "6"), ("LOCAL_RANK", "2"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(key, value)
    assert numbers() == (6, 2, 8)
    assert numbers(rank=0, world_size=1) == (0, 2, 1)
    monkeypatch.setenv("RANK", "first")
    assert numbers() == (5, 2, 8)


@settings(deadline=None)
@given(name=st.text(max_size=80))
def test_any_name_becomes_one_that_is_a_folder_and_a_label(name: str) -> None:
    clean = identity.sanitize(name)

    assert NAME_PATTERN.fullmatch(clean[:64])
    assert identity.sanitize(clean) == clean
    assert NAME_PATTERN.fullmatch(identity.identify(name=name).run)


@settings(deadline=None)
@given(name=st.from_regex(NAME_PATTERN, fullmatch=True))
def test_a_good_name_stays_as_it_is(name: str) -> None:
    assert identity.sanitize(name) == name


def test_a_script_without_a_name_gives_its_own(tmp_path: Path) -> None:
    found, _ = ended(IDENTIFY + "    print(json.dumps(identify()))", tmp_path)

    assert found[0].startswith("trainer-")
    assert len(found[0]) == len("trainer-") + 8


def test_ranks_of_one_launcher_share_the_suffix_and_the_next_launch_has_another(tmp_path: Path) -> None:
    launcher = f"""
    import json, os, subprocess, sys
    ranks = [
        subprocess.run(
            [sys.executable, "-c", {RANK_OF_A_LAUNCH!r}],
            env={{**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}},
            capture_output=True, text=True,
        ).stdout.strip()
        for rank in range(2)
    ]
    print(json.dumps(ranks))
    """
    first, second = (ended(launcher, tmp_path)[0] for _ in range(2))

    assert first[0].startswith("m-")
    assert first[0] == first[1]
    assert second[0] == second[1] != first[0]


def test_ranks_that_local_rank_0_starts_share_its_suffix_as_with_lightning(tmp_path: Path) -> None:
    script = (
        IDENTIFY
        + f"""
    os.environ["LOCAL_RANK"] = "0"
    other = subprocess.run(
        [sys.executable, "-c", {RANK_OF_A_LAUNCH!r}],
        env={{**os.environ, "LOCAL_RANK": "1"}}, capture_output=True, text=True,
    ).stdout.strip()
    print(json.dumps([identify(name="m").run, other]))
    """
    )
    (first, other), _ = ended(script, tmp_path)

    assert first == other


def test_two_single_processes_are_two_runs(tmp_path: Path) -> None:
    script = IDENTIFY + "    print(json.dumps(identify(name='m').run))"

    assert ended(script, tmp_path)[0] != ended(script, tmp_path)[0]


WORKERS = """
    import json, multiprocessing, os, sys
    from trainer_hooks.identity import is_worker

    at_import = is_worker()

    def look(queue, rank):
        if rank is not None:
            os.environ["RANK"] = str(rank)
        queue.put(at_import if rank == "import" else is_worker())

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        queue = context.SimpleQueue()
        seen = []
        for rank in (None, "import", 3):
            child = context.Process(target=look, args=(queue, rank))
            child.start()
            seen.append(queue.get())
            child.join()
        print(json.dumps([is_worker(), *seen]))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_multiprocessing_child_is_a_worker_unless_it_was_given_a_rank(tmp_path: Path, method: str) -> None:
    here, child, child_at_import, ranked = ended(WORKERS, tmp_path, method, RANK="0", LOCAL_RANK="0")[0]

    assert not here
    assert child
    assert not ranked
    # A forked child has the parent's answer; a spawned one runs the script again, before it knows its parent.
    assert child_at_import == (method != "fork")


def test_a_child_that_may_not_see_its_first_environment_is_a_worker(tmp_path: Path) -> None:
    script = """
    import ctypes, json, multiprocessing, os
    from trainer_hooks.identity import is_worker

    def look(queue):
        if os.getuid() == 0:  # who may read his own all the same
            os.setgid(65534)
            os.setuid(65534)
        not_dumpable = ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        queue.put([not_dumpable, is_worker()])

    if __name__ == "__main__":
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=look, args=(queue,))
        child.start()
        print(json.dumps(queue.get()))
        child.join()
    """

    assert ended(script, tmp_path)[0] == [0, True]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/jane/m", "m"),
        ("~jane/m/", "m"),
        ("../jane/m", "m"),
        ("home/jane/models/x", "x"),
        ("./m", "m"),
        ("jane/m/", "m"),
        ("file:///home/jane/m", "m"),
        ("file:/home/jane/m", "m"),
        ("gs://b/jane/m", "m"),
        ("hf://jane", "jane"),
        ("s3://b/jane/m.jsonl?key=secret/x", "m.jsonl"),
        ("https://jane:secret@example.org", "example.org"),
        ("${HOME}/x", "x"),
        ("$HOME/x", "x"),
        ("C:\\Users\\jane\\m", "m"),
        ("jane\\m", "m"),
        ("org/model", "org/model"),
        ("org/model@main", "org/model@main"),
        ("tiny", "tiny"),
        ("bf16-mixed", "bf16-mixed"),
        ("transformers 5.24", "transformers 5.24"),
        ("", ""),
    ],
)
def test_of_a_path_or_a_url_the_last_component_is_told_and_a_name_of_a_hub_whole(
    text: str, told: str
) -> None:
    assert identity.without_folders(text) == told


def test_the_node_is_a_proper_name() -> None:
    assert NAME_PATTERN.fullmatch(identity.identify(run="run").node)
