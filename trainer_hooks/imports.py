"""What is armed when a framework gets imported, in a process that `run` started.

Nothing is imported for it before: a process without a framework of the table pays for a look into a
dictionary at each import. What a module of the table is loaded by stays what it was, but for the time between
the search for the module and its execution.
"""

import sys
from time import monotonic_ns

TYPE_CHECKING = False  # typing's would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Installer = str | Callable[[], object]

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


def after_import(installers: "Mapping[str, Installer]") -> None:
    """Call each function once, after the first import of its module. They may fail: that is logged.

    A function is named by `module:function` where its module, too, is to be imported only then.
    """
    finder = _Finder(installers)
    sys.meta_path.insert(0, finder)
    for name in installers:
        if name in sys.modules:
            finder.imported(name)


def _install(name: str, installer: "Installer") -> None:
    try:
        if not isinstance(installer, str):
            installer()
            return
        import importlib

        if armed_ns is not None:
            from trainer_hooks import automatic

            automatic.tell_of_exits()
        module, _, function = installer.partition(":")
        getattr(importlib.import_module(module), function)()
    except Exception as error:
        _warn("%s cannot be followed: %s", name, type(error).__name__)


def _warn(text: str, *arguments: str) -> None:
    try:
        import logging

        logging.getLogger("trainvitals").warning(text, *arguments)
    except Exception:  # a stranger's filter
        return


class _Finder:
    """Finds what the finders behind it find; for the modules it waits for, it is told of their execution."""

    def __init__(self, installers: "Mapping[str, Installer]") -> None:
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
            _install(name, installer)

    def _found_by_others(self, name: str, path: "Any", target: "Any") -> "Any":
        finders = list(sys.meta_path)
        if self not in finders:
            return None
        for finder in finders[finders.index(self) + 1 :]:  # those before it may be asking it
            find_spec = getattr(finder, "find_spec", None)
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
