"""After a training with the hook the process is as it would be without: nothing of it stays but the files."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.trainer_hooks.processes import ended

# What of a process could stay changed, looked at from within.
LOOK = """
import gc, json, locale, logging, os, random, resource, signal, sys, threading, warnings, weakref

def look():
    sys.stdout.flush()
    handled = [each for each in signal.valid_signals() if each not in (signal.SIGKILL, signal.SIGSTOP)]
    return {
        "threads": len(os.listdir("/proc/self/task")) + threading.active_count(),
        "descriptors": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                              if os.path.exists(f"/proc/self/fd/{fd}") and "/proc/" not in
                              os.readlink(f"/proc/self/fd/{fd}")),
        "mappings": sorted({line.split()[-1] for line in open("/proc/self/maps") if ".steps" in line}),
        "handlers": [str(signal.getsignal(each)) for each in handled],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "wakeup": signal.set_wakeup_fd(-1),
        "filters": [str(each) for each in warnings.filters],
        "logging": [str(each) for name in ("", "trainvitals")
                    for logger in [logging.getLogger(name)]
                    for each in (logger.handlers, logger.filters, logger.level, logger.propagate)],
        "random": hash(random.getstate()),
        "hooks": [str(each) for each in (sys.excepthook, sys.unraisablehook, threading.excepthook,
                  sys.displayhook, sys.gettrace(), sys.getprofile(), sys.breakpointhook)],
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "collection": [gc.isenabled(), gc.get_threshold(), len(gc.callbacks)],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": [os.umask(0o22), os.umask(0o22)],
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "locale": locale.setlocale(locale.LC_ALL),
        "argv": sys.argv,
        "path": sys.path,
        "meta_path": [str(each) for each in sys.meta_path],
    }

def changed(before, after):
    return {name: [before[name], after[name]] for name in before if before[name] != after[name]}
"""


def test_a_monitor_leaves_nothing_in_the_process(tmp_path: Path) -> None:
    script = textwrap.dedent(LOOK) + textwrap.dedent(
        """
        from trainer_hooks.monitor import Monitor
        modules = set(sys.modules)
        before = look()
        monitors = []
        for _ in range(3):
            with Monitor(run="run", directory=sys.argv[1]) as monitor:
                monitors.append(weakref.ref(monitor))
                for batch in monitor.batches(range(50)):
                    with monitor.step():
                        monitor.batch(loss=1.0, samples=1)
                with monitor.checkpoint():
                    pass
        new = {name.partition(".")[0] for name in set(sys.modules) - modules}
        foreign = new - sys.stdlib_module_names - {"trainer_hooks"}
        del monitor
        gc.collect()
        kept = [monitor() is not None for monitor in monitors]  # by atexit, for one
        print(json.dumps([changed(before, look()), sorted(foreign), kept]))
        """
    )
    found, errors = ended(script, tmp_path, tmp_path / "recordings")
    assert found == [{}, [], [False, False, False]]
    assert errors == ""


WATCHED = """
import torch

def torch_look():
    from torch.nn.modules import module
    from torch.optim import optimizer
    return {
        "random": hash(torch.get_rng_state().numpy().tobytes()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "modes": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled(),
                  torch.are_deterministic_algorithms_enabled(), str(torch.get_default_dtype())],
        "functions": [id(each) for each in (torch.autograd.backward, torch.save, torch.Tensor.backward,
                      torch.nn.utils.clip_grad_norm_, torch.optim.Optimizer.__init__,
                      torch.utils.data.dataloader._BaseDataLoaderIter.__next__)],
        "hooks": [len(each) for name, each in sorted({**vars(module), **vars(optimizer)}.items())
                  if name.startswith("_global_") and hasattr(each, "__len__")],
        "of_model": [len(each or ()) for name, each in sorted(vars(model).items()) if "hook" in name],
        "of_optimizer": [len(each) for name, each in sorted(vars(sgd).items()) if name.endswith("_hooks")],
    }

def train():
    for batch in torch.utils.data.DataLoader(torch.ones(6, 2), batch_size=2):
        model(batch).mean().backward()
        sgd.step()
        sgd.zero_grad()

model = torch.nn.Linear(2, 1)
sgd = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(0)
train()
torch.save(model.state_dict(), os.devnull)
"""


def test_a_watched_training_leaves_nothing_in_torch_and_its_process(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = (
        textwrap.dedent(LOOK)
        + textwrap.dedent(WATCHED)
        + textwrap.dedent(
            """
            from trainer_hooks import torch_process
            from trainer_hooks.monitor import Monitor
            torch.manual_seed(0)
            train()
            expected = torch_look()
            before = look()
            for _ in range(2):
                torch.manual_seed(0)
                with Monitor(run="run", directory=sys.argv[1]) as monitor:
                    monitor.watch(model, sgd)
                    train()
            overlapping = []
            for number in range(3):  # each ends in the middle of the next
                overlapping.append(Monitor(run=f"overlaps-{number}", directory=sys.argv[1]))
                overlapping[-1].watch(model, sgd)
                torch.manual_seed(0)
                train()
                if number:
                    overlapping[number - 1].finish()
            overlapping.pop().finish()
            overlapping.clear()
            watched = {**changed(before, look()), **changed(expected, torch_look())}
            torch.manual_seed(0)
            process = torch_process.install(lambda: Monitor(run="unchanged", directory=sys.argv[1]))
            train()
            torch_process.current().finish()
            gc.collect()
            process.remove()
            print(json.dumps([watched, {**changed(before, look()), **changed(expected, torch_look())}]))
            """
        )
    )
    found, errors = ended(script, tmp_path, tmp_path / "recordings", OMP_NUM_THREADS="1")
    assert found == [{}, {}]
    assert errors == ""
