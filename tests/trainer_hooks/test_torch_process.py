"""Scripts that say nothing of the hook, as `run` executes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.marks import quick
from tests.trainer_hooks.processes import ended
from tests.trainer_hooks.recorded import Recorded, only, recorded

INSTALLED = """
import json, sys, torch
from trainer_hooks.monitor import Monitor
from trainer_hooks.torch_process import install
opened = []
def open_monitor():
    opened.append(Monitor())
    return opened[-1]
if "without" not in sys.argv:
    installed = install(open_monitor)
import torch.nn.functional as functional
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
torch.set_num_threads(1)
"""

LOOP = """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)], nn.Linear(3, 1))
    def forward(self, x):
        return self.layers(x)
model = Model()
training = TensorDataset(torch.randn(20, 3), torch.randn(20, 1))
validation = TensorDataset(torch.randn(5, 3), torch.randn(5, 1))
criterion = nn.MSELoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
losses, validated = [], []
for epoch in range(2):
    model.train()
    for x, y in DataLoader(training, batch_size=8, shuffle=True):
        loss = criterion(model(x), y)
        (loss / 2).backward()
        norm = clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        for x, y in DataLoader(validation, batch_size=2):
            criterion(model(x), y)
        validated.append(criterion(model.layers(validation.tensors[0]), validation.tensors[1]).item())
    torch.save(model.state_dict(), f"model-{epoch}.pt")
said = [losses, validated, norm.item(), [p.tolist() for p in model.parameters()]]
"""


def run(folder: Path, script: str, *arguments: str) -> tuple[Any, str]:
    """What the script said last, and its stderr; its recordings are in the folder's `recordings`."""
    text = INSTALLED + script + "\nprint(json.dumps(said))\n"
    prefix = ["env", f"--chdir={folder}"]
    return ended(
        text,
        folder,
        *arguments,
        prefix=prefix,
        TRAINVITALS_DIR=str(folder / "recordings"),
        OMP_NUM_THREADS="1",
    )


def clean(folder: Path) -> Recorded:
    seen = only(folder / "recordings")
    assert (seen.live.hook_errors, seen.live.hook_dropped) == (0, 0)
    return seen


def test_an_unchanged_script_is_recorded_and_computes_the_same(tmp_path: Path) -> None:
    said, stderr = run(tmp_path, LOOP)
    losses, validated, norm, _ = said
    seen = clean(tmp_path)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (6, 6, 40)
    assert [record.loss for record in seen.steps] == losses
    assert [event["loss"] for event in seen.of("evaluation")] == pytest.approx(validated, rel=1e-5)
    assert seen.live.gradient_norm == norm
    assert seen.live.learning_rates[0] == 0.01
    assert seen.live.checkpoints_ok == 2
    assert seen.live.checkpoint_bytes == (tmp_path / "model-1.pt").stat().st_size
    age_ns = seen.live.end_ns - seen.static.start_monotonic_ns
    assert sum(seen.live.phase_ns) == age_ns
    assert all(seen.live.phase_ns[code] > 0 for code in (0, 1, 2, 3, 5, 6, 7, 8))
    without, plain_stderr = run(tmp_path, LOOP, "without")
    assert without == said
    assert stderr == plain_stderr


def test_nothing_is_opened_where_nothing_is_trained(tmp_path: Path) -> None:
    said, _ = run(
        tmp_path,
        """
with torch.no_grad():
    nn.Linear(3, 1)(next(iter(DataLoader(torch.ones(4, 3), batch_size=2))))
torch.save({}, "nothing.pt")
said = len(opened)
""",
    )
    assert said == 0
    assert not recorded(tmp_path / "recordings")


def test_a_script_that_watches_the_recording_it_was_given_is_told_of_once(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
opened[0].watch(model, optimizer)
for x in DataLoader(torch.ones(8, 3), batch_size=2):
    model(x).mean().backward()
    optimizer.step()
said = len(opened)
""",
    )
    live = clean(tmp_path).live
    assert (live.steps, live.batches, live.samples) == (4, 4, 8)


def test_a_backward_pass_alone_is_a_training(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
weight = torch.zeros(3, requires_grad=True)
for _ in range(3):
    weight.square().sum().backward()
said = None
""",
    )
    live = clean(tmp_path).live
    assert (live.steps, live.batches) == (0, 3)


def test_while_somebody_else_records_nothing_is_told(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
with Monitor(name="explicit") as explicit:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in DataLoader(torch.ones(8, 3), batch_size=2):
        with explicit.step():
            model(x).mean().backward()
            optimizer.step()
        torch.save(model, "model.pt")
said = len(opened)
""",
    )
    live = clean(tmp_path).live
    assert (live.steps, live.batches, live.checkpoints_ok) == (4, 4, 0)
    assert live.phase_ns[3] == 0


def test_a_provisional_recording_goes_to_a_framework_that_opens_its_own(tmp_path: Path) -> None:
    said, _ = run(
        tmp_path,
        """
installed.remove()
install(lambda: Monitor(provisional=True))
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with Monitor(name="framework") as monitor:
    for x in DataLoader(torch.ones(8, 3), batch_size=2):
        with monitor.step():
            model(x).mean().backward()
            optimizer.step()
said = len(torch.nn.modules.module._global_forward_pre_hooks)
""",
    )
    assert said == 0
    assert clean(tmp_path).live.steps == 4


def test_inner_modules_meet_no_hook(tmp_path: Path) -> None:
    said, _ = run(
        tmp_path,
        """
from torch.nn.modules import module as modules
class Asking(nn.Linear):
    seen = []
    def forward(self, x):
        self.seen.append(len(modules._global_forward_pre_hooks))
        return super().forward(x)
model = nn.Sequential(Asking(3, 3), Asking(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
between = []
for _ in range(3):
    between.append(len(modules._global_forward_pre_hooks))
    try:
        model(torch.ones(2, 2))
    except RuntimeError:
        between.append(len(modules._global_forward_pre_hooks))
    model(torch.ones(2, 3)).mean().backward()
    optimizer.step()
said = [Asking.seen, between, [len(each._forward_hooks) for each in model.modules()]]
""",
    )
    seen, between, hooks = said
    assert set(seen) == {0}
    assert set(between) == {1}
    assert hooks == [1, 0, 0]
    assert clean(tmp_path).live.samples == 6


@pytest.mark.long
def test_compiled_models_and_functions_are_compiled_once_and_whole(tmp_path: Path) -> None:
    script = """
inner = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
model = torch.compile(inner, backend="eager", fullgraph=True)
other = nn.Linear(3, 1)
@torch.compile(backend="eager", fullgraph=True)
def loss_of_other(x):
    return other(x).square().mean()
optimizer = torch.optim.SGD([*inner.parameters(), *other.parameters()], lr=0.1)
losses = []
for _ in range(5):
    loss = model(torch.ones(2, 3)).mean() + loss_of_other(torch.ones(2, 3))
    loss.backward()
    clip_grad_norm_(inner.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
said = [losses, torch._dynamo.utils.counters["stats"]["unique_graphs"]]
"""
    said, _ = run(tmp_path, script)
    live = clean(tmp_path).live
    assert (live.steps, live.batches, live.samples) == (5, 5, 10)
    assert said[1] == 2
    assert run(tmp_path, script, "without")[0] == said


@pytest.mark.long
def test_a_model_compiled_in_place_is_seen_and_compiled_once(tmp_path: Path) -> None:
    script = """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    def forward(self, x):
        return self.layers(x)
model = Model()
model.compile(backend="eager", fullgraph=True)
with torch.no_grad():
    model(torch.ones(2, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for _ in range(5):
    loss = model(torch.ones(2, 3)).mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
said = [losses, torch._dynamo.utils.counters["stats"]["unique_graphs"]]
"""
    said, _ = run(tmp_path, script)
    seen = clean(tmp_path)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (5, 5, 10)
    assert [record.loss for record in seen.steps] == said[0]
    assert run(tmp_path, script, "without")[0] == said


def test_a_model_that_appears_later_is_found(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
first, second = nn.Linear(3, 1), nn.Linear(3, 1)
for model, rows in ((first, 2), (second, 3)):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.ones(rows, 3)).mean().backward()
        optimizer.step()
said = None
""",
    )
    live = clean(tmp_path).live
    assert (live.steps, live.samples) == (6, 15)


def test_skipped_steps_and_nested_steps_of_an_unchanged_script(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
class Careful(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)
model = nn.Linear(3, 1)
torch.optim.SGD(model.parameters(), lr=0.1)
optimizer = Careful(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
for index in range(4):
    scaler.scale(model(torch.ones(2, 3)).square().mean()).backward()
    if index == 2:
        model.bias.grad[0] = float("nan")
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
said = None
""",
    )
    live = clean(tmp_path).live
    assert (live.steps, live.steps_skipped, live.batches, live.loss_scale) == (3, 1, 4, 32.0)


def test_what_a_library_saves_is_one_checkpoint_with_all_its_files(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
class Pretrained(nn.Linear):
    def save_pretrained(self, save_directory, max_shard_size=1):
        import pathlib
        pathlib.Path(save_directory).mkdir()
        torch.save(self.state_dict(), f"{save_directory}/model.pt")
        torch.save({"config": 1}, f"{save_directory}/config.pt")
installed.watch_saves(Pretrained, "save_pretrained")
model = Pretrained(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.save_pretrained("before")
model(torch.ones(2, 3)).mean().backward()
optimizer.step()
model.save_pretrained(save_directory="after")
try:
    torch.save(model.state_dict(), "no/such/folder/model.pt")
except RuntimeError:
    pass
with open("stream.pt", "wb") as stream:
    torch.save(model.state_dict(), stream)
said = None
""",
    )
    seen = clean(tmp_path)
    size = sum(file.stat().st_size for file in (tmp_path / "after").iterdir())
    assert [event["bytes"] for event in seen.of("checkpoint")] == [
        size,
        (tmp_path / "stream.pt").stat().st_size,
    ]
    assert seen.live.checkpoints_failed == 1


def test_a_script_that_fails_is_recorded_as_failed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(tmp_path, LOOP + "\n1 / 0\n")
    seen = only(tmp_path / "recordings")
    assert seen.of("exception")[0]["type"] == "ZeroDivisionError"
    assert seen.live.steps == 6


def test_the_workers_of_a_loader_record_nothing(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in DataLoader(torch.ones(8, 3), batch_size=2, num_workers=2):
    model(x).mean().backward()
    optimizer.step()
said = None
""",
    )
    live = clean(tmp_path).live
    assert (live.steps, live.samples) == (4, 8)


def test_a_function_of_torch_has_one_replacement_and_is_pickled_by_its_name(tmp_path: Path) -> None:
    said, _ = run(
        tmp_path,
        """
import pickle
pairs = [(torch.save, torch.serialization.save),
         (torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad.clip_grad_norm_)]
functions = [torch.autograd.backward, torch.nn.utils.get_total_norm, *[one for pair in pairs for one in pair]]
same = [one is other for one, other in pairs] + [pickle.loads(pickle.dumps(f)) is f for f in functions]
installed.remove()
same += [one is other for one, other in pairs] + [not hasattr(torch.save, "__wrapped__")]
said = all(same)
""",
    )
    assert said is True


@pytest.mark.parametrize("watched", quick("unchanged", of=("watched", "unchanged")))
def test_a_model_is_saved_without_a_hook_and_copied_with_none_that_acts(tmp_path: Path, watched: str) -> None:
    script = """
import copy, hashlib, io, pickle
first, optimizer = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), None
optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
allowed = [nn.Sequential, nn.Linear, nn.ReLU]
def step(model):
    functional.mse_loss(model(torch.ones(3, 4)), torch.zeros(3, 4)).backward()
    optimizer.step()
    optimizer.zero_grad()
def stored():
    stream = io.BytesIO()
    torch.save(first, stream)
    return stream.getvalue()
"""
    rest = """
step(first)
data = stored()
step(first)
with torch.serialization.safe_globals(allowed):
    loaded = torch.load(io.BytesIO(data), weights_only=True)
said = [hashlib.sha256(data).hexdigest(), stored() != data]
for each in (loaded, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
    step(each)
step(first)
traced = torch.fx.symbolic_trace(nn.Sequential(first))
said.append([node.name for node in traced.graph.nodes])
"""
    if watched == "watched":
        watching = "monitor = Monitor()\nmonitor.watch(first, optimizer)\n"
        said, _ = run(tmp_path, script + watching + rest, "without")
    else:
        said, _ = run(tmp_path, script + rest)
    without, _ = run(tmp_path, script + rest, "without")
    assert said == without
    assert clean(tmp_path).live.batches == 6
