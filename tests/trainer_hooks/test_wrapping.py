"""What is put around somebody's function, and how it goes again."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable
from typing import Any

import pytest

from trainer_hooks import wrapping
from trainer_hooks.wrapping import put_around


class Base:
    def answer(self) -> int:
        """Forty-two."""
        return 42


class Heir(Base):
    pass


def doubled(original: Callable[..., int]) -> Callable[..., int]:
    def double(*args: Any) -> int:
        return 2 * original(*args)

    return double


def test_it_is_around_the_function_and_looks_like_it_until_it_is_taken_off() -> None:
    module = types.ModuleType("a_module")
    own = module.answer = lambda: 21  # type: ignore[attr-defined]

    take_off = put_around(module, "answer", doubled)

    assert module.answer() == 42
    assert module.answer.__wrapped__ is own
    take_off()
    assert module.answer is own
    take_off()
    assert module.answer is own


def test_what_is_inherited_is_inherited_again() -> None:
    for owner, answer in ((Heir, Heir().answer), (heir := Heir(), lambda: heir.answer())):
        take_off = put_around(owner, "answer", doubled)
        assert "answer" in vars(owner)
        assert (Heir().answer if owner is Heir else answer)() == 84
        take_off()
        assert "answer" not in vars(owner)
        assert Heir().answer() == 42


def test_what_an_object_holds_itself_comes_back() -> None:
    heir = Heir()
    vars(heir)["answer"] = own = lambda: 7
    take_off = put_around(heir, "answer", doubled)
    assert heir.answer() == 14
    take_off()
    assert vars(heir)["answer"] is own


def test_under_what_somebody_put_around_it_it_stays() -> None:
    heir = Heir()
    ours = put_around(heir, "answer", doubled)
    theirs = vars(heir)["answer"] = functools.wraps(heir.answer)(doubled(heir.answer))
    ours()
    assert heir.answer is theirs
    above = put_around(heir, "answer", doubled)
    assert heir.answer() == 336
    above()
    assert heir.answer is theirs


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_several_come_off_in_any_order_and_leave_nothing(order: tuple[int, ...]) -> None:
    module, alias = types.ModuleType("a_module"), types.ModuleType("an_alias")
    own = module.answer = alias.answer = list  # type: ignore[attr-defined]

    def telling(name: int, original: Callable[[], list[int]]) -> Callable[[], list[int]]:
        return lambda: [*original(), name]

    off = [put_around(module, "answer", functools.partial(telling, name), alias) for name in range(3)]
    there = [0, 1, 2]
    for name in order:
        assert module.answer() == alias.answer() == there
        assert module.answer.__wrapped__ is own
        off[name]()
        off[name]()
        there.remove(name)
    assert module.answer is alias.answer is own


def test_those_of_overlapping_trainings_pile_up_nowhere() -> None:
    heir, before = Heir(), None
    for _ in range(3000):
        off = put_around(heir, "answer", doubled)
        if before is not None:
            before()
        before = off
        assert heir.answer() == 84
    off()
    assert "answer" not in vars(heir)


def test_a_change_does_not_wait_for_a_thread_that_never_ends_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapping, "_LONGEST_WAIT_SECONDS", 0.01)
    heir = Heir()
    with wrapping._changing:
        off = put_around(heir, "answer", doubled)
        assert heir.answer() == 84
        off()
    assert heir.answer() == 42
