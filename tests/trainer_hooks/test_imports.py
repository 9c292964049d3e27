"""What is called after the import of a module, and what nobody sees of it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer_hooks import imports

called: list[str] = []


def install() -> None:
    called.append("framework" if hasattr(sys.modules.get("a_framework"), "after") else "too early")


def fail() -> None:
    called.append("failing")
    raise RuntimeError("of a patient")


HERE = f"{__name__}:install"


@pytest.fixture(autouse=True)
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A framework on the path, and what was imported and found before, as it was, afterwards."""
    (tmp_path / "a_framework.py").write_text("before = __loader__.__dict__.keys()\nafter = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    importlib.invalidate_caches()
    called.clear()
    yield
    sys.modules.pop("a_framework", None)


def imported() -> Any:
    return importlib.import_module("a_framework")


def test_it_is_called_once_after_the_module_has_been_executed() -> None:
    imports.after_import({"a_framework": HERE, "not_to_be_found": HERE})
    assert called == []

    module = imported()

    assert called == ["framework"]
    importlib.reload(module)
    del sys.modules["a_framework"]
    imported()
    assert called == ["framework"]
    with pytest.raises(ModuleNotFoundError, match="not_to_be_found"):
        importlib.import_module("not_to_be_found")


def test_the_module_cannot_tell(tmp_path: Path) -> None:
    bare = imported()
    del sys.modules["a_framework"]
    imports.after_import({"a_framework": HERE})

    found = importlib.util.find_spec("a_framework")
    module = imported()

    assert found is not None
    assert (type(module.__loader__), vars(module.__loader__)) == (
        type(bare.__loader__),
        vars(bare.__loader__),
    )
    assert set(module.before) == set(bare.before) == {"name", "path"}
    assert module.__spec__ == bare.__spec__
    assert called == ["framework"]


def test_what_is_only_looked_for_is_not_taken_for_imported() -> None:
    imports.after_import({"a_framework": HERE})

    assert importlib.util.find_spec("a_framework") is not None
    assert called == []


def test_what_has_been_imported_before_is_armed_at_once() -> None:
    imported()
    imports.after_import({"a_framework": HERE})

    assert called == ["framework"]


def test_a_module_that_fails_is_tried_again_and_raises_its_own(tmp_path: Path) -> None:
    (tmp_path / "a_framework.py").write_text("raise OSError('theirs')")
    imports.after_import({"a_framework": HERE})
    for _ in range(2):
        with pytest.raises(OSError, match="theirs"):
            imported()
    assert called == []


@pytest.mark.parametrize(
    "installer", [f"{__name__}:fail", f"{__name__}:absent", "trainer_hooks.absent:install"]
)
def test_a_missing_or_failing_piece_is_logged_and_harms_nothing(
    installer: str, caplog: pytest.LogCaptureFixture
) -> None:
    imports.after_import({"a_framework": installer})

    assert imported().after == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("a_framework cannot be followed: ")
    assert "patient" not in record.getMessage()


def test_two_may_wait_for_the_same_module() -> None:
    imports.after_import({"a_framework": HERE})
    imports.after_import({"a_framework": lambda: called.append("the other")})

    module = imported()

    assert sorted(called) == ["framework", "the other"]
    assert "exec_module" not in vars(module.__loader__)


def test_finders_that_ask_each_other_come_to_an_end() -> None:
    class Asking:
        busy = False

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if self.busy or name != "a_framework":
                return None
            self.busy = True
            try:
                return importlib.util.find_spec(name)
            finally:
                self.busy = False

    imports.after_import({"a_framework": HERE})
    sys.meta_path.insert(1, Asking())

    module = imported()

    assert called == ["framework"]
    assert "exec_module" not in vars(module.__loader__)
