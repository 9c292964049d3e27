"""What is put around somebody's function, and how it goes again."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

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
    first = put_around(heir, "answer", doubled)
    second = put_around(heir, "answer", doubled)
    first()
    assert heir.answer() == 168
    second()
    assert heir.answer() == 84
