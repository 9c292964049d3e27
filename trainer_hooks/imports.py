"""What is armed when a framework gets imported, in a process that `run` started.

Nothing is imported for it before: a process without a framework of the table pays for a look into a
dictionary at each import. What a module of the table is loaded by stays what it was, but for the time between
the search for the module and its execution.
"""

import sys
from time import monotonic_ns

TYPE_CHECKING = False  # typing's would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# After the import of a module, call a function without arguments, `module:function`.
INSTALLERS = {
    "torch": "trainer_hooks.automatic:torch",
    "transformers.modeling_utils": "trainer_hooks.automatic:transformers_saves",
    "peft.peft_model": "trainer_hooks.automatic:peft_saves",
    "transformers.trainer": "trainer_hooks.transformers:install",
    "lightning.pytorch.trainer.connectors.callback_connector": "trainer_hooks.automatic:lightning",
    "pytorch_lightning.trainer.connectors.callback_connector": "trainer_hooks.automatic:pytorch_lightning",
    "lightning.fabric.fabric": "trainer_hooks.automatic:fabric",
    "lightning_fabric.fabric": "trainer_hooks.automatic:lightning_fabric",
    "stable_baselines3": "trainer_hooks.stable_baselines3:install",
    "torch.utils.tensorboard.writer": "trainer_hooks.tee:install",
    "tensorboardX.writer": "trainer_hooks.tee:install",
    "wandb.sdk.wandb_run": "trainer_hooks.tee:install",
    "wandb.sdk.lib.noop_run": "trainer_hooks.tee:install",
    "mlflow.tracking.client": "trainer_hooks.tee:install",
}

armed_ns: int | None = None  # monotonic time


def arm() -> None:
    """From now on what is imported is armed, and at once what has been."""
    global armed_ns
    armed_ns = monotonic_ns()
    after_import(INSTALLERS)


def after_import(installers: "Mapping[str, str]") -> None:
    """Call each function once, after the first import of its module. They may fail: that is logged."""
    finder = _Finder(installers)
    sys.meta_path.insert(0, finder)
    for name in installers:
        if name in sys.modules:
            finder.imported(name)


def _install(installer: str) -> None:
    try:
        import importlib

        from trainer_hooks import automatic

        automatic.tell_of_exits()
        module, _, function = installer.partition(":")
        getattr(importlib.import_module(module), function)()
    except Exception as error:
        _warn("%s cannot follow this process: %s", installer, type(error).__name__)


def _warn(text: str, *arguments: str) -> None:
    try:
        import logging

        logging.getLogger("trainvitals").warning(text, *arguments)
    except Exception:  # a stranger's filter
        return


class _Finder:
    """Finds what the finders behind it find; for the modules it waits for, it is told of their execution."""

    def __init__(self, installers: "Mapping[str, str]") -> None:
        self._waiting = dict(installers)

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name not in self._waiting:
            return None
        spec = self._found_by_others(name, path, target)
        try:  # noqa: SIM105
            self._tell_of_execution(name, spec.loader)
        except Exception:  # not found, or a loader that nothing can be put around
            pass
        return spec

    def imported(self, name: str) -> None:
        """The module has been imported: call its function, the first time."""
        installer = self._waiting.pop(name, None)
        if installer is not None:
            _install(installer)

    def _found_by_others(self, name: str, path: "Any", target: "Any") -> "Any":
        for finder in list(sys.meta_path):
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find_spec is None else find_spec(name, path, target)
            if spec is not None:
                return spec
        return None

    def _tell_of_execution(self, name: str, loader: "Any") -> None:
        original = loader.exec_module
        before = vars(loader).get("exec_module")

        def exec_module(module: "Any") -> None:
            if module.__name__ != name:  # one loader of several modules
                original(module)
                return
            if vars(loader).get("exec_module") is exec_module:
                if before is None:
                    del loader.exec_module
                else:
                    loader.exec_module = before
            original(module)
            self.imported(name)

        loader.exec_module = exec_module
