"""However a training ends, it ends as it would without the hook, and the recording says how."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.trainer_hooks.processes import TORCHRUN, done, environment, said, started
from tests.trainer_hooks.recorded import Recorded, every_byte, only, recorded
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import FAILED, FINISHED, RUNNING

SECRET = "what the client said"

# The first argument is where to record; without one the same script runs without the hook.
SCRIPT = """
import contextlib, os, signal, sys
from trainer_hooks.monitor import Monitor

def dies_of(number):
    if signal.getsignal(number) == signal.SIG_IGN:  # as under nohup, or behind a shell's `&`
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pause()

def leave(number, frame):
    sys.exit(int(os.environ["STATUS"]))

with Monitor(run="a-run", directory=sys.argv[1]) if sys.argv[1:] else contextlib.nullcontext() as monitor:
    for _ in range(3):
        with monitor.step() if monitor else contextlib.nullcontext():
            pass
    print("trained")
    {ending}
"""
HANDLED = "signal.signal(signal.SIGTERM, leave); dies_of(signal.SIGTERM)"


@pytest.mark.parametrize(
    ("ending", "status", "outcome", "told"),
    [
        ("sys.exit()", 0, FINISHED, {"event": "finish", "reason": "exit"}),
        ("sys.exit(0)", 0, FINISHED, {"event": "finish", "reason": "exit"}),
        ("sys.exit(3)", 3, FAILED, {"event": "fail", "type": "exit code 3"}),
        (f"sys.exit('{SECRET}')", 1, FAILED, {"event": "fail", "type": "exit code 1"}),
        (f"raise KeyError('{SECRET}')", 1, FAILED, {"event": "fail", "type": "KeyError"}),
        ("raise MemoryError", 1, FAILED, {"event": "fail", "type": "MemoryError"}),
        ("dies_of(signal.SIGINT)", -signal.SIGINT, FINISHED, {"event": "finish", "reason": "interrupted"}),
        ("dies_of(signal.SIGTERM)", -signal.SIGTERM, RUNNING, {"event": "start"}),
        ("dies_of(signal.SIGHUP)", -signal.SIGHUP, RUNNING, {"event": "start"}),
        ("os.abort()", -signal.SIGABRT, RUNNING, {"event": "start"}),
        (HANDLED, 143, FAILED, {"event": "fail", "type": "exit code 143"}),
        (HANDLED, 0, FINISHED, {"event": "finish", "reason": "exit"}),
    ],
)
def test_a_script_ends_as_without_the_hook_and_is_recorded_as_it_ended(
    tmp_path: Path, ending: str, status: int, outcome: int, told: dict[str, str]
) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(SCRIPT.format(ending=ending))
    directory = tmp_path / "recordings"
    ran = [
        subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(STATUS=str(max(status, 0))),
            check=False,
        )
        for arguments in ([str(directory)], [])
    ]
    with_hook, without = ran
    assert with_hook.returncode == without.returncode == status
    assert (with_hook.stdout, with_hook.stderr) == (without.stdout, without.stderr)
    seen = only(directory)
    assert (seen.live.outcome, seen.live.steps, seen.alive) == (outcome, 3, False)
    assert told.items() <= seen.events[-1].items()
    assert seen.live.ooms == ("MemoryError" in ending)
    if "Error" in ending:
        last = len(SCRIPT.splitlines())
        assert [event["place"] for event in seen.of("exception")] == [f"trainer.py:{last} in <module>"]
    assert SECRET.encode() not in every_byte(directory)


def test_an_exception_of_torch_that_tells_of_memory_is_counted_once_wherever_it_is_caught(
    tmp_path: Path,
) -> None:
    torch = pytest.importorskip("torch")

    def allocates_too_much() -> None:
        torch.empty(1 << 45)

    def device_is_full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def array_is_too_large() -> None:
        raise type("_ArrayMemoryError", (MemoryError,), {})

    def is_no_matter_of_memory() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(torch.OutOfMemoryError), Monitor(run="a-run", directory=tmp_path) as monitor:  # noqa: PT012
        for fails in (allocates_too_much, device_is_full, array_is_too_large, is_no_matter_of_memory):
            for _ in range(2):
                with contextlib.suppress(RuntimeError, MemoryError), monitor.step():
                    fails()
        with monitor.step():
            pass
        with monitor.step():
            device_is_full()
    seen = only(tmp_path)
    assert (seen.live.ooms, seen.live.steps, seen.live.hook_errors) == (7, 1, 0)
    assert [event["type"] for event in seen.of("oom")] == [
        *["RuntimeError"] * 2,
        *["OutOfMemoryError"] * 2,
        *["_ArrayMemoryError"] * 2,
        "OutOfMemoryError",
    ]
    assert [event["type"] for event in seen.of("exception")] == ["OutOfMemoryError"]
    assert seen.live.outcome == FAILED


def test_a_lack_of_memory_that_a_watched_loop_survives_is_counted(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Runs(torch.nn.Module):  # type: ignore[misc, name-defined]
        full = False

        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 1)

        def forward(self, inputs: object) -> object:
            if self.full:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.inner(inputs)

    class FullInBackward(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: object, value: object) -> object:
            return value.clone()  # type: ignore[attr-defined]

        @staticmethod
        def backward(ctx: object, gradient: object) -> object:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = Runs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        monitor.watch(model, optimizer)
        for where in ("nowhere", "forward", "backward", "nowhere"):
            model.full = where == "forward"
            try:
                loss = model(torch.ones(3, 2)).mean()
                (FullInBackward.apply(loss) if where == "backward" else loss).backward()
                optimizer.step()
            except torch.OutOfMemoryError:
                optimizer.zero_grad()
    seen = only(tmp_path)
    assert (seen.live.ooms, seen.live.steps, seen.live.hook_errors) == (2, 2, 0)
    assert seen.live.outcome == FINISHED


CRASHES_IN_ONE_RANK = """
import sys, time
from pathlib import Path
from trainer_hooks.monitor import Monitor

other_has_trained = Path(__file__).with_suffix(".trained")
monitor = Monitor(directory=sys.argv[1])
for _ in range(3):
    with monitor.step():
        pass
if monitor._recorder.static.rank == 1:
    while not other_has_trained.exists():
        time.sleep(0.01)
    raise ZeroDivisionError
other_has_trained.touch()
time.sleep(300)
"""


def torchrun(script: str, folder: Path) -> list[Recorded]:
    """What two ranks of the script, which torchrun has ended with an error, have recorded."""
    path = folder / "trainer.py"
    path.write_text(script)
    directory = folder / "recordings"
    ended = done([*TORCHRUN, "--standalone", str(path), str(directory)], folder)
    assert ended.returncode == 1
    return recorded(directory)


def states(ranks: list[Recorded]) -> dict[int, tuple[int, bool, int]]:
    return {each.static.rank: (each.live.outcome, each.alive, each.live.steps) for each in ranks}


def test_a_rank_that_crashes_has_failed_and_the_one_that_torchrun_ends_was_killed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    ranks = torchrun(CRASHES_IN_ONE_RANK, tmp_path)
    assert states(ranks) == {0: (RUNNING, False, 3), 1: (FAILED, False, 3)}
    assert [event["type"] for event in ranks[1].of("fail")] == ["ZeroDivisionError"]


CRASHES_IN_ONE_RANK_OF_A_GROUP = """
import sys
import torch
from trainer_hooks.monitor import Monitor

torch.distributed.init_process_group("gloo")
network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
monitor = Monitor(directory=sys.argv[1])
for step in range(10):
    if step == 3:
        torch.distributed.barrier()  # both have made three steps
        if torch.distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
    with monitor.step():
        network(torch.ones(2, 2)).mean().backward()
        optimizer.step()
"""


@pytest.mark.long
def test_a_rank_of_a_process_group_that_lacks_memory_ends_all_with_the_states_they_ended_in(
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    first, second = torchrun(CRASHES_IN_ONE_RANK_OF_A_GROUP, tmp_path)
    assert (second.live.outcome, second.live.ooms, second.live.steps) == (FAILED, 1, 3)
    # Rank 0 finds its peer gone, or torchrun ends it before that: failed or killed, and in no case finished.
    assert first.live.outcome in (FAILED, RUNNING)
    assert (first.live.steps, first.live.ooms, first.alive) == (3, 0, False)


LIGHTNING = """
import json, os, signal, sys
import lightning.pytorch as pl
import torch
from trainer_hooks.lightning import TelemetryCallback

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            print(json.dumps("training"), flush=True)
            sys.stdin.readline()
        return self.network(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

loader = torch.utils.data.DataLoader(torch.ones(40, 2), batch_size=2)
pl.Trainer(
    accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, callbacks=[TelemetryCallback(run="a-run")],
).fit(Module(), loader)
"""


@pytest.mark.long
def test_a_fit_that_lightning_ends_at_sigterm_is_over_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning")
    script = tmp_path / "trainer.py"
    script.write_text(textwrap.dedent(LIGHTNING))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    directory = tmp_path / "recordings"
    recording_there = ["env", f"TRAINVITALS_DIR={directory}", sys.executable, str(script)]
    with started(recording_there) as process:
        assert process.stdin is not None
        assert said(process) == "training"
        process.send_signal(signal.SIGTERM)
        print(file=process.stdin, flush=True)
        process.wait(60)  # with which status differs by Lightning's version
    seen = only(directory)
    assert (seen.live.outcome, seen.alive, seen.live.hook_errors) == (FINISHED, False, 0)
    assert seen.of("finish")[0]["reason"] == "interrupted"
    assert json.dumps(seen.events).count("finish") == 1
