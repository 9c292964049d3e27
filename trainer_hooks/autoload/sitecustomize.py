"""Arms the hook at the start of every Python that `run` started, and of its children.

Python imports a module of this name, if there is one on its path, before it runs anything. This one is
found by way of PYTHONPATH. It makes `trainer_hooks` importable, whatever the interpreter, without putting its
folder on the path, takes itself off the path, and then runs the one it stood in front of.
"""

import sys
from _frozen_importlib_external import PathFinder  # that of importlib.machinery, without all of importlib


def _arm(package: str) -> None:
    """Import trainer_hooks from this folder, whatever else of that name is on the path, and arm it."""
    parent = package.rpartition("/")[0]

    class Ours:
        @staticmethod
        def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
            return PathFinder.find_spec(name, [parent]) if name == "trainer_hooks" else None

    sys.meta_path.insert(0, Ours)
    try:
        from trainer_hooks import imports
    finally:
        sys.meta_path.remove(Ours)
    imports.arm()


def _stand_aside(here: str) -> None:
    """Leave the path and the name to whom they belong. Raises what a sitecustomize raises."""
    from _frozen_importlib import module_from_spec

    sys.path[:] = [entry for entry in sys.path if entry.rstrip("/") != here]
    spec = PathFinder.find_spec(__name__, sys.path)
    if spec is not None and spec.loader is not None and spec.origin != __file__:
        module = sys.modules[__name__] = module_from_spec(spec)
        spec.loader.exec_module(module)


_here = __file__.rpartition("/")[0]
try:  # noqa: SIM105  # contextlib costs as much as all the rest
    _arm(_here.rpartition("/")[0])
except Exception:  # the script comes first
    pass
_stand_aside(_here)
