"""A fault in every internal call of the hook in turn, each under a tiny training of its own.

    python -m tests.conformance.faults first|every ERROR[,ERROR] TRAINER[:FILE,FILE…]…

The modules of `trainer_hooks` are compiled with a point in front of every call a function of theirs makes:
`f(x)` becomes `point(n, f)(x)`. A first training finds out which points it passes; then there is one for each
point in which just that call raises. What is found is printed as JSON: for each trainer its `Findings`.
"""

from __future__ import annotations

import ast
import builtins
import functools
import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tests.conformance.exempt import (
    END_ITSELF,
    EXEMPT,
    EXEMPT_IN,
    EXPECTED,
    PASSED_THROUGH,
    UNTOLD,
    UNTOLD_IN,
)

SHARED_MEMORY = "/dev/shm"
_GUARDS = ("guarded", "harmless")  # what the decorators of such functions make of them


class Point(NamedTuple):
    """A call in the source, and what was called there."""

    place: str  # file:line function
    callee: str

    @property
    def within(self) -> tuple[str, str]:
        """File and function of the call."""
        file_and_line, _, function = self.place.partition(" ")
        return file_and_line.partition(":")[0], function

    def in_one_of(self, files: Sequence[str]) -> bool:
        """Whether the call is made in one of these files, or in any where none are named.

        A function that a guard calls is called in the file it is of.
        """
        file = self.within[0]
        if self.within == ("monitor.py", "guard"):
            file = f"{self.callee.split('.')[1]}.py"
        return not files or file in files


class _Points(ast.NodeTransformer):
    """Puts a point in front of every call that a function makes."""

    def __init__(self, file_name: str, places: list[str]) -> None:
        self._file_name = file_name
        self._places = places
        self._functions: list[str] = []

    def _visit_function(self, node: Any) -> Any:
        node.decorator_list = [self.visit(each) for each in node.decorator_list]
        node.args = self.visit(node.args)
        self._functions.append(node.name)
        node.body = [self.visit(each) for each in node.body]
        self._functions.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function  # noqa: N815

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        called_by = getattr(node.func, "id", None)
        if not self._functions or (self._file_name, called_by) in PASSED_THROUGH:
            return node
        self._places.append(f"{self._file_name}:{node.lineno} {'.'.join(self._functions)}")
        number = ast.Constant(len(self._places) - 1)
        point = ast.Call(ast.Name("__fault_point__", ast.Load()), [number, node.func], [])
        node.func = ast.copy_location(point, node)
        return ast.fix_missing_locations(node)


class _Loader(SourceFileLoader):
    places: list[str]

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        return compile(_Points(Path(path).name, self.places).visit(tree), path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Finds `trainer_hooks`, with points in it."""

    def __init__(self, places: list[str]) -> None:
        self._places = places

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "trainer_hooks":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
            spec.loader.places = self._places
        return spec


def name_of(callee: Any) -> str:
    """Module and name of what is called, the object of a method left out."""
    if isinstance(callee, functools.partial):
        return name_of(callee.func)
    module = getattr(callee, "__module__", None) or ""
    if "pybind11" in getattr(callee, "__qualname__", ""):  # a name of its own for every build
        return str(callee.__name__)
    owner = getattr(callee, "__self__", None)
    if not module and isinstance(owner, ModuleType):
        module = owner.__name__
    elif not module and owner is not None:
        module = type(owner).__module__
    name = getattr(callee, "__qualname__", None) or type(callee).__qualname__
    return f"{module}.{name}" if module else str(name)


class Faults:
    """Knows what was called, and makes some of the calls fail."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.watching = False
        self.called: set[Point] = set()
        self.failing: tuple[Point, ...] = ()
        self.error: type[Exception] = RuntimeError
        self.every = True
        self.raised: set[Point] = set()
        self._exempt = {name for names in EXEMPT.values() for name in names}
        self._exempt_in = {within for functions in EXEMPT_IN.values() for within in functions}

    def install(self) -> None:
        """Have `trainer_hooks`, which must not have been imported, imported with points in it."""
        assert not any(name.partition(".")[0] == "trainer_hooks" for name in sys.modules)
        builtins.__fault_point__ = self._point  # type: ignore[attr-defined]
        sys.meta_path.insert(0, _Finder(self.places))

    def arm(self, failing: tuple[Point, ...], error: type[Exception], every: bool) -> None:
        """From the next call on these fail, at every call or at the first alone."""
        self.called, self.raised = set(), set()
        self.failing, self.error, self.every = failing, error, every

    def _point(self, number: int, callee: Any) -> Any:
        if not self.watching:
            return callee
        point = Point(self.places[number], name_of(callee))
        code = getattr(callee, "__code__", None)
        if (
            point.callee in self._exempt
            or point.within in self._exempt_in
            or (code is not None and code.co_name in _GUARDS)
        ):
            return callee
        self.called.add(point)
        if point in self.failing and (self.every or point not in self.raised):
            self.raised.add(point)
            raise self.error("a fault of the test")
        return callee


@dataclass
class Findings:
    """What came of all the faults of one training."""

    trainings: int = 0
    points: list[Point] = field(default_factory=list)
    second: list[Point] = field(default_factory=list)  # those that only another fault leads to
    harmed: list[str] = field(default_factory=list)  # another result than without the hook
    silent: list[str] = field(default_factory=list)  # neither counted nor logged
    noisy: list[str] = field(default_factory=list)  # more than one line in the log for each recording
    unfinished: list[str] = field(default_factory=list)  # would pass for killed, though the training ended
    lasting: list[str] = field(default_factory=list)  # changed what was trained afterwards, without the hook


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Search:
    """Puts faults into the internal calls of one training; `train(hooked)` gives its result.

    `left` tells whether a hook that a fault kept from its end has left anything in torch, and `clear` takes
    it back.
    """

    def __init__(
        self,
        faults: Faults,
        train: Callable[[bool], Any],
        left: Callable[[], bool],
        clear: Callable[[], None],
    ) -> None:
        self.findings = Findings()
        self._faults = faults
        self._train = train
        self._left = left
        self._clear = clear
        for _ in range(3):  # the first ones warn of what is warned of once
            self._expected = train(False)
        self._recordings = 0  # of a training without a fault
        self._log = _Lines()
        logger = logging.getLogger("trainvitals")
        logger.addHandler(self._log)
        logger.propagate = False

    def run(self, errors: Sequence[type[Exception]], every: bool, files: Sequence[str] = ()) -> Findings:
        """Each call with each of these errors, and each that only another fault leads to together with it.

        Those of these files alone, where some are named.
        """
        findings = self.findings
        if self._train(False) != self._expected:
            raise AssertionError("the training itself is not reproducible")
        self._attempt((), RuntimeError, True)
        clean = self._attempt((), RuntimeError, True)  # what a process does only once has been done
        gc.collect()
        gc.freeze()  # trainers collect garbage, hundreds of times now
        if findings != Findings(trainings=2):
            raise AssertionError(f"not a fault yet, but {findings}")
        findings.points = sorted(each for each in clean if each.in_one_of(files))
        leads_to: dict[Point, Point] = {}
        for point in findings.points:
            for error in errors:
                for another in self._attempt((point,), error, every) - clean:
                    leads_to.setdefault(another, point)
        leads_to = {each: by for each, by in leads_to.items() if each.in_one_of(files)}
        findings.second = sorted(leads_to)
        for another, point in sorted(leads_to.items()):
            self._attempt((point, another), errors[0], every)
        return findings

    def _attempt(self, failing: tuple[Point, ...], error: type[Exception], every: bool) -> set[Point]:
        """One training under these faults; the calls it made."""
        faults, findings = self._faults, self.findings
        self._log.lines.clear()
        faults.arm(failing, error, every)
        findings.trainings += 1
        case = f"{error.__name__} in {' and '.join(f'{place}: {callee}' for place, callee in failing)}"
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
            os.environ["TRAINVITALS_DIR"] = folder
            faults.watching = True
            try:
                result = self._train(True)
            except BaseException as surfaced:
                result = f"{type(surfaced).__name__} surfaced"
            finally:
                faults.watching = False
            recordings, counted, ended = _told(Path(folder))
            if self._left():
                if self._train(False) != self._expected:
                    findings.lasting.append(case)
                self._clear()
        if result != self._expected:
            findings.harmed.append(f"{case}: {_difference(self._expected, result)}")
        if not failing:
            self._recordings = recordings
        if len(self._log.lines) > (max(1, self._recordings) if failing else 0):
            findings.noisy.append(f"{case}: {self._log.lines}")
        if len(failing) < 2:  # of two, the second may be in what tells of the first
            if (
                faults.raised
                and error not in EXPECTED
                and not counted
                and not self._log.lines
                and not {each.callee for each in faults.raised} & UNTOLD
                and not {each.within for each in faults.raised} & UNTOLD_IN
            ):
                findings.silent.append(case)
            if not ended and not {each.callee for each in faults.raised} & END_ITSELF:
                findings.unfinished.append(case)
        return faults.called


def _told(folder: Path) -> tuple[int, int, bool]:
    """Of the recordings in the folder: how many, the faults they count, whether all came to an end."""
    from tests.trainer_hooks.recorded import recorded
    from trainer_hooks.recording import RUNNING

    recordings = recorded(folder)
    return (
        len(recordings),
        sum(each.live.hook_errors for each in recordings),
        all(each.live.outcome != RUNNING for each in recordings),
    )


def _difference(expected: Any, found: Any) -> str:
    if type(found) is not type(expected):
        return str(found)
    return ", ".join(
        f"{name} {getattr(found, name)}"[:120]
        for name in expected._fields
        if getattr(expected, name) != getattr(found, name)
    )


def main() -> None:
    mode, names, *trainers = sys.argv[1:]
    faults = Faults()
    faults.install()
    from tests.conformance.tiny_trainers import TRAINERS, clear, left

    kinds = [getattr(builtins, name) for name in names.split(",")]
    _make_recordings_small()
    found = {}
    for each in trainers:
        trainer, _, files = each.partition(":")
        search = Search(faults, TRAINERS[trainer], left, clear)
        found[trainer] = asdict(search.run(kinds, mode == "every", [*filter(None, files.split(","))]))
    print(json.dumps(found))


def _make_recordings_small() -> None:
    """Of 8 step records: hundreds of them take no time."""
    from trainer_hooks.recording import Recorder

    defaults: Any = Recorder.__init__.__kwdefaults__
    defaults["ring_capacity"] = 8


if __name__ == "__main__":
    main()
