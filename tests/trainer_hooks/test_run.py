"""`run`: a command of somebody else's, recorded, and otherwise as if nobody had been there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from exporters.recordings import RecordingsCollector
from tests.trainer_hooks.processes import ROOT, RUN, TORCHRUN, done, settings, wait_until
from tests.trainer_hooks.recorded import Recorded, recorded, without_a_fault
from trainer_hooks import run
from trainer_hooks.recording import FAILED, FINISHED, process_start_ticks

PLAIN_DDP = ROOT / "tests" / "trainer_hooks" / "scripts" / "plain_ddp.py"


def python(script: str, folder: Path, *arguments: str) -> list[str]:
    """The command that runs the script, laid down in the folder."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    return [sys.executable, str(path), *arguments]


@contextlib.contextmanager
def started(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=settings(folder),
        process_group=0,  # the tests' own may have no shell any more, and such a group is not stopped
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_each_rank_of_a_distributed_script_without_a_word_of_ours_is_recorded(tmp_path: Path) -> None:
    ended = done([*RUN, "--name", "ours", *TORCHRUN, str(PLAIN_DDP), "--name", "theirs"], tmp_path)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(b"theirs: loss") == 2
    ranks = without_a_fault(tmp_path / "recordings")
    assert [(each.static.rank, each.static.world_size) for each in ranks] == [(0, 2), (1, 2)]
    (name,) = {each.static.run for each in ranks}
    assert name.startswith("ours-")
    assert len(name) == len("ours-") + 8
    for each in ranks:
        live = each.live
        assert (live.steps, live.batches, live.samples) == (6, 6, 24)
        assert (live.tokens_all, live.tokens_trained) == (24 * 6, 24 * 5)
        assert f"theirs: loss {live.loss:.6f}".encode() in ended.stdout
        assert [record.learning_rate for record in each.steps] == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]
        assert live.gradient_norm == ranks[0].live.gradient_norm
        assert live.gradient_norm is not None
        assert live.gradient_norm > 0
        assert len(each.of("evaluation")) == 2
        age_ns = live.end_ns - each.static.start_monotonic_ns
        assert sum(live.phase_ns) == age_ns
        assert all(live.phase_ns[code] > 0 for code in (0, 1, 2, 3, 5, 6, 8))
        assert (live.outcome, each.of("finish")[0]["reason"]) == (FINISHED, "exit")
    assert [each.live.checkpoints_ok for each in ranks] == [1, 0]
    assert ranks[0].live.checkpoint_bytes == (tmp_path / "model.pt").stat().st_size


def test_a_killed_rank_is_seen_as_killed_within_five_seconds(tmp_path: Path) -> None:
    collector = RecordingsCollector([tmp_path / "recordings"])
    with started([*RUN, *TORCHRUN, str(PLAIN_DDP), "--epochs", "1000000"], tmp_path):
        wait_until(lambda: [each.live.steps > 0 for each in look(tmp_path)] == [True, True], 120)

        def states() -> list[str]:
            list(collector.collect())
            return [rank.state for run in collector.runs for rank in run.ranks]

        # A look that takes long leaves some for the next.
        wait_until(lambda: states() == ["running", "running"])
        pid = look(tmp_path)[1].static.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: process_start_ticks(pid) is None)  # the kernel may take its time
        assert states()[1] == "killed", "the first look after it knows"
        assert collector.runs[0].state == "killed"
        assert collector.interval_seconds < 5


def look(folder: Path) -> list[Recorded]:
    """The recordings as of now; none while one of them is only just being laid down."""
    with contextlib.suppress(Exception):
        return recorded(folder / "recordings")
    return []


def test_a_script_computes_and_says_the_same_with_and_without(tmp_path: Path) -> None:
    import torch

    said, weights = [], []
    for prefix in ([], RUN):
        folder = tmp_path / ("with" if prefix else "without")
        folder.mkdir()
        ended = done([*prefix, sys.executable, str(PLAIN_DDP), "--name", "a name"], folder)
        said.append((ended.returncode, ended.stdout, ended.stderr))
        weights.append(torch.load(folder / "model.pt"))

    assert said[0] == said[1]
    assert said[0][:2] == (0, said[0][1])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not recorded(tmp_path / "without" / "recordings")
    (seen,) = without_a_fault(tmp_path / "with" / "recordings")
    assert (seen.live.steps, seen.live.outcome) == (12, FINISHED)
    assert seen.static.run.startswith("plain_ddp-")
    assert seen.static.info["framework"] == f"torch {torch.__version__}"


TELLING = """
import json, os, signal, sys
given = sys.stdin.buffer.read()
print(json.dumps([sys.argv[1:], sys.path, sys.flags.isolated, given.decode(), list(sys.warnoptions),
    [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    sorted(key for key in os.environ if not key.startswith("TRAINVITALS")),
    [int(line.split()[1], 16) for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn"))],
    os.listdir("/proc/self/fd"), os.getppid()]))
print("to stderr", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 1, 7])
def test_exit_code_arguments_input_output_and_surroundings_are_those_of_the_command(
    code: int, tmp_path: Path
) -> None:
    command = python(TELLING, tmp_path, str(code), "two words", "--name", "-x", "--", "ä")

    bare, ours = (
        done([*prefix, *command], tmp_path, standard_input=b"a line\n", LC_ALL="C") for prefix in ([], RUN)
    )

    assert (bare.returncode, ours.returncode) == (code, code)
    assert json.loads(ours.stdout)[0] == [str(code), "two words", "--name", "-x", "--", "ä"]
    assert ours.stdout == bare.stdout
    assert ours.stderr == bare.stderr == b"to stderr\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_meets_the_command_itself(number: signal.Signals, tmp_path: Path) -> None:
    script = """
        import signal, time
        signal.signal(signal.SIGINT, lambda *_: exit(9))
        print("ready", flush=True)
        time.sleep(60)
    """
    with started([*RUN, *python(script, tmp_path)], tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(30) == (9 if number == signal.SIGINT else -number)


def test_the_command_can_be_stopped_and_continued(tmp_path: Path) -> None:
    script = "print('ready', flush=True); print(input())"
    with started([*RUN, *python(script, tmp_path)], tmp_path) as process:
        assert process.stdout is not None

        def state() -> str:
            return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]

        assert process.stdout.readline() == b"ready\n"  # and waits for a line of ours, whatever we do when
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: state() == "T")
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: state() != "T")
        assert process.communicate(b"on\n", timeout=60) == (b"on\n", b"")
        assert process.returncode == 0


def test_a_script_that_only_looks_at_torch_leaves_no_recording(tmp_path: Path) -> None:
    script = """
        import sys, torch
        model = torch.nn.Linear(2, 1)
        with torch.no_grad():
            model(torch.ones(3, 2))
        torch.save(model.state_dict(), "model.pt")
        import trainer_hooks
        print(trainer_hooks.__file__)
        print([entry for entry in sys.path if "autoload" in entry])
    """

    ended = done([*RUN, *python(script, tmp_path)], tmp_path)

    assert ended.stdout.decode().splitlines() == [str(ROOT / "trainer_hooks" / "__init__.py"), "[]"]
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert not recorded(tmp_path / "recordings")


def test_the_sitecustomize_that_ours_stands_in_front_of_is_run(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("import sys\nsys.customized = __file__\nhere = 1\n")
    script = """
        import sitecustomize, sys
        print(sys.customized, sitecustomize.here, sitecustomize.__spec__.origin)
    """
    command = python(script, tmp_path)

    bare, ours = (
        done([*prefix, *command], tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{theirs}") for prefix in ([], RUN)
    )

    path = str(theirs / "sitecustomize.py")
    assert ours.stdout.decode() == f"{path} 1 {path}\n"
    assert (bare.stdout, bare.stderr) == (ours.stdout, ours.stderr)


def test_a_faulty_sitecustomize_is_reported_as_ever(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("1 / 0\n")
    command = python("print('on')", tmp_path)

    bare, ours = (
        done([*prefix, *command], tmp_path, PYTHONPATH=f"{theirs}{os.pathsep}{ROOT}") for prefix in ([], RUN)
    )

    assert b"ZeroDivisionError" in bare.stderr
    assert ours.stderr.endswith(bare.stderr)
    assert ours.stdout == b"on\n"


ENDS = """
    import atexit, os, sys, torch
    import torch._dynamo  # else each child would do so, at its first step
    ENDS = {
        "exception": "1 / 0",
        "exit": "sys.exit()",
        "code": "sys.exit(3)",
        "raise": "raise SystemExit(8)",
        "negative": "sys.exit(-1)",
        "no code": "sys.exit(256)",
        "aborted later": "atexit.register(os._exit, 9) or sys.exit(10)",
        "text": "sys.exit('quoting a patient')",
        "quit": "quit(4)",
        "at once": "os._exit(0)",
        "at once, code": "os._exit(5)",
        "interrupt": "raise KeyboardInterrupt",
        "went on": "leave_and_go_on(6)",
        "other thread": "leave_on_another_thread(7)",
    }
    def leave_and_go_on(code):
        try:
            sys.exit(code)
        except SystemExit:
            step()
    def leave_on_another_thread(code):
        import threading
        thread = threading.Thread(target=sys.exit, args=(code,))
        thread.start()
        thread.join()
    codes = {}
    for end, statement in ENDS.items():
        pid = os.fork()
        if pid == 0:
            break
        codes[end] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    else:
        import json
        print(json.dumps(codes))
        sys.exit()
    os.environ["TRAINVITALS_RUN"] = end.replace(" ", "_").replace(",", "")
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    def step():
        (weight - 1).square().sum().backward()
        optimizer.step()
    step()
    exec(statement)
"""


def test_how_a_script_ends_is_known(tmp_path: Path) -> None:
    """One process for each end, forked off one that has torch already, and no recording."""
    ended = done([*RUN, *python(ENDS, tmp_path)], tmp_path)

    codes = [1, 0, 3, 8, 255, 0, 9, 1, 4, 0, 5, -signal.SIGINT, 0, 0]
    assert list(json.loads(ended.stdout).values()) == codes
    assert {each.static.run: told_end(each) for each in without_a_fault(tmp_path / "recordings")} == {
        "exception": (FAILED, "ZeroDivisionError"),
        "exit": (FINISHED, "exit"),
        "code": (FAILED, "exit code 3"),
        "raise": (FAILED, "exit code 8"),
        "negative": (FAILED, "exit code 255"),
        "no_code": (FINISHED, "exit"),
        "aborted_later": (FAILED, "exit code 9"),
        "text": (FAILED, "exit code 1"),
        "quit": (FAILED, "exit code 4"),
        "at_once": (FINISHED, "exit"),
        "at_once_code": (FAILED, "exit code 5"),
        "interrupt": (FINISHED, "interrupted"),
        "went_on": (FINISHED, "exit"),
        "other_thread": (FINISHED, "exit"),
    }
    (exception,) = next(
        each for each in without_a_fault(tmp_path / "recordings") if each.static.run == "exception"
    ).of("exception")
    assert exception["place"] == "<string>:1 in <module>"


def told_end(seen: Recorded) -> tuple[int, object]:
    if seen.live.exit_code:
        return FAILED, f"exit code {seen.live.exit_code}"
    last = seen.events[-1]
    return seen.live.outcome, last.get("type") or last.get("reason")


SPAWNED = """
    import sys, torch
    import torch.distributed as dist
    import torch.multiprocessing as mp
    from torch.utils.data import DataLoader

    def train(rank, size, meeting):
        model = torch.nn.Linear(3, 1)
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model = torch.nn.parallel.DistributedDataParallel(model)
        loader = DataLoader(torch.ones(8, 3), batch_size=2, num_workers=1, multiprocessing_context="spawn")
        for x in loader:
            model(x).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        del model  # first: else it ends the group under the GIL, for which a thread of the group may wait
        dist.destroy_process_group()

    if __name__ == "__main__":
        mp.spawn(train, args=(2, sys.argv[1]), nprocs=2)
"""


@pytest.mark.long
def test_ranks_that_a_script_spawns_are_one_run_and_their_loaders_workers_nothing(tmp_path: Path) -> None:
    ended = done([*RUN, *python(SPAWNED, tmp_path, str(tmp_path / "meeting"))], tmp_path)

    assert (ended.returncode, ended.stderr) == (0, b"")
    ranks = without_a_fault(tmp_path / "recordings")
    assert [(each.static.rank, each.static.world_size) for each in ranks] == [(0, 2), (1, 2)]
    assert len({each.static.run for each in ranks}) == 1
    assert [(each.live.steps, each.live.samples) for each in ranks] == [(4, 8), (4, 8)]
    assert [told_end(each) for each in ranks] == [(FINISHED, "exit")] * 2


UNGUARDED = """
    import sys, torch
    from torch.utils.data import DataLoader
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def train(loader):
        for x in loader:
            model(x).mean().backward()
            optimizer.step()
    train(DataLoader(torch.ones(4, 3), batch_size=2))
    if __name__ == "__main__" or "unguarded" in sys.argv:
        context = "forkserver" if "forkserver" in sys.argv else "spawn"
        train(DataLoader(torch.ones(8, 3), batch_size=2, num_workers=1, multiprocessing_context=context))
"""


@pytest.mark.long
@pytest.mark.parametrize(("arguments", "steps"), [(["forkserver"], 6), (["unguarded"], 2)])
def test_a_script_that_is_imported_again_in_its_workers_is_recorded_once(
    arguments: list[str], steps: int, tmp_path: Path
) -> None:
    ended = done([*RUN, *python(UNGUARDED, tmp_path, *arguments)], tmp_path)

    (seen,) = without_a_fault(tmp_path / "recordings")
    assert seen.live.steps == steps
    assert (seen.live.outcome == FINISHED) == (ended.returncode == 0) == (steps == 6)


@pytest.mark.long
def test_two_trainings_of_one_command_are_two_runs(tmp_path: Path) -> None:
    script = """
        import sys, torch
        weight = torch.ones(1, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        weight.sum().backward()
        optimizer.step()
    """
    command = " ".join(python(script, tmp_path))

    ended = done([*RUN, "--", "sh", "-c", f"{command}; {command}; exit 5"], tmp_path)

    assert (ended.returncode, ended.stderr) == (5, b"")
    first, second = without_a_fault(tmp_path / "recordings")
    assert first.static.run != second.static.run
    assert {each.static.run.rpartition("-")[0] for each in (first, second)} == {"script"}
    assert (first.live.steps, second.live.steps) == (1, 1)


def test_a_script_that_records_by_itself_stays_the_only_source(tmp_path: Path) -> None:
    script = """
        import torch
        from trainer_hooks.monitor import Monitor
        weight = torch.ones(1, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        with Monitor(name="explicit") as monitor:
            for _ in range(3):
                with monitor.step():
                    weight.sum().backward()
                    optimizer.step()
    """
    ended = done([*RUN, "--name", "from outside", *python(script, tmp_path)], tmp_path)

    assert (ended.returncode, ended.stderr) == (0, b"")
    (seen,) = without_a_fault(tmp_path / "recordings")
    assert seen.static.run.startswith("explicit-")
    assert (seen.live.steps, seen.live.phase_ns[3]) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "a command is missing"),
        (["--name", "x"], "a command is missing"),
        (["--"], "a command is missing"),
        (["--name"], "--name needs a value"),
        (["--nmae", "x", "true"], "there is no option --nmae; options of the command come after it"),
        (["--run", "a b", "true"], "--run a b must match"),
        (["--linger", "soon", "true"], "--linger soon is no number of seconds"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_with_the_reason(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(arguments) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"trainvitals run: {sentence}")
    assert "usage: trainvitals run [--name NAME]" in printed.err


def test_our_options_end_where_the_command_begins() -> None:
    call = run.parse(["--name=n", "--run", "r", "--linger", "1.5", "python", "--name", "x", "--", "--serve"])

    assert call == run.Call(["python", "--name", "x", "--", "--serve"], "n", "r", None, 1.5)
    assert run.parse(["--serve", "--", "--odd"]) == run.Call(["--odd"], serve="127.0.0.1:8003")
    assert run.parse(["--serve=:9", "x"]).serve == "127.0.0.1:9"


def test_the_environment_may_ask_for_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINVITALS_SERVE", ":8004")

    assert run.parse(["x"]).serve == "127.0.0.1:8004"


def test_a_command_that_cannot_be_is_named_with_the_shells_codes(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "script").write_text("#!/no/such/interpreter")
    (tmp_path / "script").chmod(0o755)

    missing = done([*RUN, "no-such-command"], tmp_path)
    forbidden = done([*RUN, "./text"], tmp_path)
    uninterpreted = done([*RUN, "./script"], tmp_path)

    name = b"python -m trainer_hooks run: "
    assert (missing.returncode, missing.stderr) == (127, name + b"there is no command no-such-command\n")
    assert forbidden.returncode == 126
    assert forbidden.stderr == name + b"./text cannot be executed: Permission denied\n"
    assert uninterpreted.returncode == 127
    assert uninterpreted.stderr == name + b"./script cannot be executed: No such file or directory\n"


def test_a_folder_of_the_path_that_is_closed_hides_that_there_is_no_such_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To root none is closed: what the system says to others is put in its place."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "execvpe", refuse)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert [run.main([command]) for command in ("no-such-command", "cat")] == [127, 126]
    assert capsys.readouterr().err == (
        "trainvitals run: there is no command no-such-command\n"
        "trainvitals run: cat cannot be executed: Permission denied\n"
    )


def test_both_ways_to_call_it_are_one(tmp_path: Path) -> None:
    command = python("import os; print(os.environ['TRAINVITALS_NAME'], os.environ['TRAINVITALS'])", tmp_path)
    for program in (RUN, [sys.executable, "-m", "trainvitals", "run"]):
        assert done([*program, "--name", "n", *command], tmp_path).stdout == b"n 1\n"
    wrong = done([sys.executable, "-m", "trainer_hooks"], tmp_path)
    assert (wrong.returncode, wrong.stderr[:36]) == (2, b"usage: python -m trainer_hooks run [")
    help_asked = done([sys.executable, "-m", "trainvitals", "run", "--help"], tmp_path)
    assert help_asked.returncode == 0
    assert b"--linger SECONDS" in help_asked.stdout


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_the_service_beside_a_command_outlives_it_a_little_and_holds_nothing(tmp_path: Path) -> None:
    script = """
        import os, time, urllib.request
        print(urllib.request.urlopen(input() + "/metrics").status, os.listdir("/proc/self/fd"))
        try:
            os.wait()
        except ChildProcessError:
            print("no children")
        print(time.monotonic())
    """
    linger_seconds = 8  # the machine may be busy with others meanwhile
    ours = [*RUN, "--serve=:0", "--linger", str(linger_seconds)]
    with started([*ours, *python(script, tmp_path)], tmp_path) as process:
        assert process.stderr is not None
        said = process.stderr.readline().decode()
        url, _, rest = said.removeprefix("python -m trainer_hooks run: the service is at ").partition(", ")
        assert url.startswith("http://127.0.0.1:"), said
        assert rest == f"its log is {tmp_path / 'state' / 'trainvitals' / 'serve.log'}\n"
        output, errors = process.communicate(f"{url}\n".encode(), timeout=60)

    answered, no_children, ended_at = output.decode().splitlines()
    assert answered.startswith("200 ['0', '1', '2', ")
    assert no_children == "no children"
    assert (process.returncode, errors) == (0, b"")
    port = int(url.rpartition(":")[2])
    assert answers(port)
    wait_until(lambda: not answers(port))
    assert time.monotonic() - float(ended_at) >= linger_seconds


def test_a_service_that_cannot_be_is_said_and_the_command_runs(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = python("print('trained')", tmp_path)
        ended = done([*RUN, f"--serve=127.0.0.1:{port}", *command], tmp_path)
    without = done([*RUN, "--serve", *command], tmp_path, PYTHONPATH=alone(tmp_path))

    assert (ended.returncode, ended.stdout) == (0, b"trained\n")
    assert f"no service: trainvitals serve: port {port} of 127.0.0.1 cannot be used".encode() in ended.stderr
    assert (without.returncode, without.stdout) == (0, b"trained\n")
    assert without.stderr == b"python -m trainer_hooks run: no service: nothing is installed\n"


def alone(folder: Path) -> str:
    """A path with a `trainvitals` that has no service."""
    (folder / "trainvitals").mkdir()
    (folder / "trainvitals" / "__init__.py").write_text("")
    (folder / "trainvitals" / "__main__.py").write_text("raise SystemExit('nothing is installed')")
    return os.pathsep.join([str(folder), str(ROOT)])


@pytest.mark.long
def test_accelerates_launcher_starts_ranks_that_are_recorded(tmp_path: Path) -> None:
    # On a CPU its launcher starts several processes by mpirun alone; the script asks for no GPU.
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    ended = done([*RUN, *launch, "--num_processes", "2", str(PLAIN_DDP)], tmp_path)

    assert ended.returncode == 0, ended.stderr
    ranks = without_a_fault(tmp_path / "recordings")
    assert [(each.static.rank, each.live.steps, each.live.outcome) for each in ranks] == [
        (0, 6, FINISHED),
        (1, 6, FINISHED),
    ]
    assert len({each.static.run for each in ranks}) == 1


@pytest.mark.long
def test_a_module_and_a_line_of_python_are_recorded_too(tmp_path: Path) -> None:
    (tmp_path / "trainable.py").write_text(
        "import torch\nw = torch.ones(1, requires_grad=True)\nw.sum().backward()\n"
    )
    for way in (["-m", "trainable"], ["-c", "import trainable"]):
        ended = done([*RUN, sys.executable, *way], tmp_path)
        assert (ended.returncode, ended.stderr) == (0, b"")
    assert sorted(
        each.static.run.rpartition("-")[0] for each in without_a_fault(tmp_path / "recordings")
    ) == ["trainable", "x-c"]


def test_an_isolated_python_is_left_alone(tmp_path: Path) -> None:
    script = "import sys; print('trainer_hooks' in sys.modules)"
    said: list[Any] = [
        done([*RUN, sys.executable, *flags, "-c", script], tmp_path).stdout for flags in ([], ["-I"], ["-S"])
    ]
    assert said == [b"True\n", b"False\n", b"False\n"]
