"""What the search of `faults` leaves out, and why: a fault there means nothing, or is another's."""

from __future__ import annotations

# Calls that are not made to fail, and why a fault of theirs means nothing.
EXEMPT = {
    "a clock, a flag or a lock that is held, which cannot fail": {
        "_thread.lock.release",
        "time.monotonic_ns",
        "time.monotonic",
        "_thread.get_ident",
        "_get_tracing_state",
        "posix.getpid",
        "trainer_hooks.recording.Recorder.disarm_elsewhere",
        "torch.compiler.is_compiling",
        "torch.compiler.is_dynamo_compiling",
        "trainer_hooks.monitor._never",
        "trainer_hooks.monitor.current",
        "trainer_hooks.torch_loop.TorchLoop.here",
        "trainer_hooks.torch_hooks.traced",
        "trainer_hooks.torch_loop.TorchLoop.can_do_without_hooks",
        "trainer_hooks.torch_process.is_euclid",
        "trainer_hooks.torch_loop.TorchLoop.may_go_backward_here",
        "trainer_hooks.torch_process.Functions.loop",
        "trainer_hooks.torch_process.Functions.before_backward",
        "trainer_hooks.torch_process.Process._current_loop",
        "trainer_hooks.torch_process.watch.<locals>.<lambda>",
    },
    "Python's own, on its own types: a trainer that cannot have these cannot go on either": {
        "builtins.dict.get",
        "builtins.dict.items",
        "builtins.getattr",
        "builtins.hasattr",
        "builtins.isinstance",
        "builtins.len",
        "builtins.list.append",
        "builtins.list.pop",
        "builtins.super",
        "builtins.type",
        "builtins.vars",
        "collections.OrderedDict.pop",
        "contextlib.nullcontext",
        "contextlib.suppress",
        "functools.wraps",
        "ReferenceType",  # one that is asked
        "weakref.ReferenceType",
        "_weakrefset.WeakSet",
    },
    "an object of ours made of constants, or of what was given as it is": {
        "trainer_hooks.lightning_fit.FitTelemetry._forget_the_fit",
        "trainer_hooks.lightning_fit._Clipping",
        "trainer_hooks.lightning_metrics.LoggedAtSteps",
        "trainer_hooks.names.Names",
        "trainer_hooks.options.Options",
        "trainer_hooks.torch_calls.Call",
        "trainer_hooks.torch_window.Evaluation",
        "trainer_hooks.transformers_training.Training",
    },
    "nothing but a guard around calls that are made to fail themselves": {
        "trainer_hooks.monitor.Monitor._size_before",
        "trainer_hooks.torch_hooks.Hooks._off",
        "trainer_hooks.torch_hooks.Hooks.all_off",
        "trainer_hooks.torch_hooks.Hooks.off",
        "trainer_hooks.monitor.Monitor.end",
        "trainer_hooks.monitor.Monitor.batch",
        "trainer_hooks.monitor.Monitor.checkpoint",
        "trainer_hooks.monitor.Monitor.end_step",
        "trainer_hooks.monitor.Monitor.enter",
        "trainer_hooks.monitor.Monitor.fail",
        "trainer_hooks.monitor.Monitor.fault",
        "trainer_hooks.monitor.Monitor.finish",
        "trainer_hooks.monitor.Monitor.guard",
        "trainer_hooks.monitor.Monitor.learning_rates",
        "trainer_hooks.monitor.Monitor.log",
        "trainer_hooks.monitor.warn",
        "trainer_hooks.torch_loop.TorchLoop.scaler_begins",
        "trainer_hooks.torch_process.Process._evidence",
        "trainer_hooks.torch_process._RootHook.remove",
        "trainer_hooks.torch_process._Evident.before_backward",
        "trainer_hooks.torch_process._path_of.<locals>.path_of",
        "trainer_hooks.torch_process._source",
        "trainer_hooks.accelerate.TelemetryTracker.finish",
        "trainer_hooks.accelerate._folder",
        "trainer_hooks.entry_points._automatic",
        "trainer_hooks.imports._Finder._found_by_others",
        "trainer_hooks.imports._Finder.imported",
        "trainer_hooks.imports._install",
        "trainer_hooks.imports._warn",
        "trainer_hooks.monitor.Monitor.phase",
        "trainer_hooks.stable_baselines3.TelemetryCallback.failed",
        "trainer_hooks.stable_baselines3._callback_of",
        "trainer_hooks.stable_baselines3._monitor_of",
        "trainer_hooks.stable_baselines3._zip",
        "trainer_hooks.tee.Tee._fault",
        "trainer_hooks.tee.Tee.take",
        "trainer_hooks.transformers._begin",
        "trainer_hooks.transformers._begin.<locals>.end",
        "trainer_hooks.transformers._nothing",
        "trainer_hooks.transformers_training._folder",
    },
    "the framework's own, as for each of its trackers or callbacks": {
        "accelerate.tracking.GeneralTracker.__init__",
        "stable_baselines3.common.callbacks.BaseCallback.__init__",
    },
}
# Functions whose calls are not made to fail, and why.
EXEMPT_IN = {
    "called by a script that asks for it, with Python's own types only; `run` has a guard around it": {
        ("tee.py", "__init__"),
        ("tee.py", "install"),
        ("tee.py", "remove"),
        ("tee.py", "_rebind"),
    },
    "called by sitecustomize, which has a guard around all it does": {
        ("imports.py", "__init__"),
        ("imports.py", "after_import"),
    },
    "Python's own dictionaries, with names of modules or arguments": {
        ("imports.py", "_found_by_others"),
        ("imports.py", "_tell_of_execution.exec_module"),
        ("imports.py", "imported"),
        ("transformers.py", "on_train_begin"),
        ("transformers_training.py", "_compute_loss.compute_loss"),
    },
}
# The trainer's own functions, and those of ours around them, by the name they are called by: an exception
# of theirs is the trainer's.
PASSED_THROUGH = {
    ("torch_process.py", "original"),
    ("accelerate.py", "original"),
    ("accelerate.py", "method"),
    ("automatic.py", "original"),
    ("fabric_training.py", "method"),
    ("fabric_training.py", "original"),
    ("imports.py", "find_spec"),
    ("imports.py", "original"),
    ("lightning_fit.py", "save"),
    ("monitor.py", "iter"),
    ("monitor.py", "next"),
    ("stable_baselines3.py", "original"),
    ("tee.py", "original"),
    ("transformers.py", "original"),
    ("transformers_training.py", "original"),
}
# Faults that need not be told: a name is left in a folder, which the next recorder removes; a path is none,
# which the save that was given it will tell.
UNTOLD = {"pathlib.Path.unlink", "posix.fspath"}
# Functions in which a fault has a meaning, and so need not be told either: what was logged is no number, or
# by a logger of another version; a loader that nothing can be put around; a model that is no key, a
# path no path.
UNTOLD_IN = {
    ("tee.py", "_number"),
    ("tee.py", "_teed.teed"),
    ("stable_baselines3.py", "_callback_of"),
    ("stable_baselines3.py", "_zip"),
    ("imports.py", "_tell_of_execution"),
    ("imports.py", "find_spec"),
    ("transformers_training.py", "_folder"),
}
# Errors that the hook expects where it reads files that others may be removing: then it does without.
EXPECTED = (OSError, RecursionError)
# The calls that write how a training ended: without them it is not known.
END_ITSELF = {
    "trainer_hooks.recording.Recorder.close",
    "trainer_hooks.monitor.Monitor._close",
    "trainer_hooks.lightning_fit.FitTelemetry.teardown",
    "trainer_hooks.lightning_fit.FitTelemetry.on_exception",
    "trainer_hooks.stable_baselines3.TelemetryCallback._close",
    "trainer_hooks.stable_baselines3.TelemetryCallback._on_training_end",
    "trainer_hooks.transformers.TelemetryCallback._close",
}
