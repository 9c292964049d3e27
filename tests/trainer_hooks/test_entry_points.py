"""An installed hook records a script that does not know it, where it is asked to, and changes nothing."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import trainer_hooks
from tests.trainer_hooks.processes import ROOT, environment
from tests.trainer_hooks.recorded import recorded
from tests.trainer_hooks.test_packaging import pip, project
from trainer_hooks import entry_points
from trainer_hooks.recording import FINISHED

SCRIPT = """
import hashlib, importlib, json, random, sys
import numpy, torch
pl, fabric, folder = importlib.import_module(sys.argv[1]), importlib.import_module(sys.argv[2]), sys.argv[3]

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 1))
    def training_step(self, batch, batch_idx):
        loss = self.layers(batch).square().mean()
        self.log("train_loss", loss, prog_bar=True)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.layers(batch).square().mean())
    test_step = validation_step
    def predict_step(self, batch, batch_idx):
        return self.layers(batch)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def digest(*things):
    return hashlib.sha256(repr(things).encode()).hexdigest()

def weights(model):
    return digest(*(each.tolist() for each in model.parameters()))

torch.manual_seed(0), numpy.random.seed(0), random.seed(0)
loader = torch.utils.data.DataLoader(torch.randn(20, 3), batch_size=4, shuffle=True)
plain = torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4)
model = Model()
bar = pl.callbacks.TQDMProgressBar()
trainer = pl.Trainer(accelerator="cpu", max_epochs=2, logger=False, default_root_dir=folder, callbacks=[bar])
trainer.test(model, plain)
trainer.predict(model, plain)
before = "trainer_hooks.monitor" in sys.modules and sys.modules["trainer_hooks.monitor"].current()
trainer.fit(model, loader, plain)
said = {
    "recorded_before_fit": bool(before),
    "steps": trainer.global_step,
    "weights": weights(model),
    "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
    "saved": sorted(torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)["callbacks"]),
}
lit = fabric.Fabric(accelerator="cpu")
lit.launch()
linear = torch.nn.Linear(3, 1)
network = lit.setup_module(linear)
optimizer = lit.setup_optimizers(torch.optim.SGD(linear.parameters(), lr=0.1))
for batch in lit.setup_dataloaders(loader):
    lit.backward(network(batch).square().mean())
    optimizer.step()
    optimizer.zero_grad()
said["fabric"] = weights(linear)
said["random"] = digest(torch.get_rng_state().tolist(), numpy.random.get_state(), random.getstate())
said["saved"] = [name.partition("{")[0] for name in said["saved"]]  # of ours there must be none
heavy = [name for name in sys.modules if name.startswith("trainer_hooks")]
json.dump([said, sorted(heavy)], open(sys.argv[4], "w"))
sys.exit(3)
"""
NAMESPACES = [("lightning.pytorch", "lightning.fabric"), ("pytorch_lightning", "lightning_fabric")]
# A bar is padded to the length of the one before, which depends on the times.
_TIMES = re.compile(r"\d+:\d\d(<[\d:?]+)?|[\d.?]+\s*(it/s|s/it)|/\S*/(?=checkpoints|test_)\S*| +(?=\x1b\[A)")


class Ended(NamedTuple):
    code: int
    output: list[str]  # lines, without the times in them and the blanks with which a bar overwrites itself
    said: dict[str, Any]
    modules: list[str]


def described(folder: Path) -> Path:
    """What an installation leaves behind for others to find, as the real pyproject has it."""
    information = folder / f"trainvitals_hook-{trainer_hooks.__version__}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Name: trainvitals-hook\nVersion: {trainer_hooks.__version__}\n")
    groups = project(ROOT / "trainer_hooks")["project"]["entry-points"]
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def installed(folder: Path) -> Path:
    """A wheel, built and installed."""
    source, built, target = folder / "trainer_hooks", folder / "built", folder / "target"
    shutil.copytree(
        ROOT / "trainer_hooks", source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    )
    pip(sys.executable, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", built, source)
    (wheel,) = built.iterdir()
    pip(sys.executable, "install", "--no-index", "--no-deps", "--target", target, wheel)
    return target


def run(namespaces: tuple[str, str], installation: Path, tmp_path: Path, name: str, **asks: str) -> Ended:
    folder, answer = tmp_path / name, tmp_path / f"{name}.json"
    folder.mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", *namespaces, folder, answer],
        env=environment(
            **{"PYTHONPATH": f"{installation}:{ROOT}", "OMP_NUM_THREADS": "1", "TRAINVITALS": "", **asks}
        ),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert answer.exists(), done.stderr[-4000:]
    said, modules = json.loads(answer.read_text())
    output = _TIMES.sub("", (done.stdout + done.stderr).replace(str(folder), ""))
    lines = [" ".join(line.split()) for line in output.splitlines()]
    # A bar that nobody moved for long is drawn once more.
    return Ended(done.returncode, [line for line, _ in itertools.groupby(lines)], said, modules)


@pytest.mark.parametrize(
    ("namespaces", "install"),
    [
        (NAMESPACES[0], described),
        pytest.param(NAMESPACES[0], installed, marks=pytest.mark.long),
        pytest.param(NAMESPACES[1], described, marks=pytest.mark.long),
        pytest.param(NAMESPACES[1], installed, marks=pytest.mark.long),
    ],
)
def test_a_script_that_does_not_know_the_hook_is_recorded_and_otherwise_the_same(
    namespaces: tuple[str, str], install: Callable[[Path], Path], tmp_path: Path
) -> None:
    recordings = tmp_path / "recordings"
    installation = install(tmp_path / "installation")
    without = run(namespaces, installation, tmp_path, "without")
    with_it = run(namespaces, installation, tmp_path, "with", TRAINVITALS_DIR=str(recordings))
    assert with_it.said == without.said
    assert with_it.output == without.output
    assert with_it.code == without.code == 3
    assert with_it.said["recorded_before_fit"] is False
    assert without.modules == ["trainer_hooks", "trainer_hooks.entry_points"]
    module, fabric_module = (
        f"trainer_hooks.{namespace.removesuffix('.pytorch').removeprefix('lightning.')}"
        for namespace in namespaces
    )
    assert {module, fabric_module} <= set(with_it.modules)

    fit, by_fabric = sorted(
        recorded(recordings), key=lambda seen: seen.static.info["framework"].count("fabric")
    )
    assert (fit.live.steps, fit.live.batches, fit.live.samples) == (10, 10, 40)
    assert (by_fabric.live.steps, by_fabric.live.batches, by_fabric.live.samples) == (5, 5, 20)
    for seen in (fit, by_fabric):
        assert (seen.live.outcome, seen.live.hook_errors, seen.live.hook_dropped) == (FINISHED, 0, 0)
    assert len(fit.of("evaluation")) == 2
    assert fit.live.checkpoints_ok == 2


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"TRAINVITALS": "1"}, True),
        ({"TRAINVITALS": "True"}, True),
        ({"TRAINVITALS": "0"}, False),
        ({"TRAINVITALS": ""}, False),
        ({"TRAINVITALS_DIR": "/there"}, True),
        ({"TRAINVITALS_DIR": ""}, False),
        ({"TRAINVITALS_DIR": "/there", "TRAINVITALS": ""}, True),
        ({"TRAINVITALS_DIR": "/there", "TRAINVITALS": "off"}, False),
    ],
)
def test_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], wanted: bool
) -> None:
    for name in ("TRAINVITALS", "TRAINVITALS_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert entry_points.wanted() is wanted


def test_a_factory_whose_framework_is_broken_costs_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(module: str) -> Any:
        raise RuntimeError(f"{module} was built for another version")

    monkeypatch.setenv("TRAINVITALS", "1")
    monkeypatch.setattr("importlib.import_module", broken)
    for factory in (
        entry_points.lightning,
        entry_points.pytorch_lightning,
        entry_points.fabric,
        entry_points.lightning_fabric,
    ):
        assert factory() == []
    assert [record.getMessage() for record in caplog.records if record.name == "trainvitals"] == [
        "telemetry is off for this training: RuntimeError"
    ] * 4
