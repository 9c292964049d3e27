"""The hooks on modules and optimizers through which a TorchLoop hears of them."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch._C import _get_tracing_state
from torch.compiler import is_compiling
from torch.fx import _symbolic_trace
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

if TYPE_CHECKING:
    from trainer_hooks.torch_loop import TorchLoop

_BOTH_ENDS = 2  # hooks on a module: for the begin and the end of a call


def traced() -> bool:
    """Whether what runs now is only written down, by torch.jit.trace or torch.fx."""
    return _get_tracing_state() is not None or getattr(_symbolic_trace, "_is_fx_tracing_flag", False) is True


class Hook:
    """A hook on somebody's module or optimizer, which tells on the training's thread and never raises.

    A copy of the module, deep or pickled, has one that does nothing.
    """

    __slots__ = ("_elsewhere", "_loop", "_tell")

    def __init__(
        self, loop: TorchLoop, tell: Callable[..., None], elsewhere: Callable[..., None] | None = None
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._elsewhere = elsewhere  # what to tell on other threads

    def __call__(self, *arguments: Any) -> None:
        if is_compiling():
            return
        loop = self._loop
        monitor = loop.monitor
        if monitor.recording and get_ident() == loop.thread and not traced():
            monitor.guard(self._tell, *arguments)
        elif self._elsewhere is not None:
            self._elsewhere(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")  # takes anything, and needs none of our code


class CompiledCall:
    """Around what `module.compile()` made of a module, in which hooks are compiled away."""

    __slots__ = ("_begins", "_ended", "_module", "compiled")

    def __init__(self, module: Any, begins: Callable[..., None], ended: Callable[..., None]) -> None:
        self.compiled = module._compiled_call_impl
        self._module = module
        self._begins = begins
        self._ended = ended

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return self.compiled(*args, **kwargs)
        self._begins(self._module, args, kwargs)
        output = None
        try:
            output = self.compiled(*args, **kwargs)
            return output
        finally:
            self._ended(self._module, args, kwargs, output)


def tell_of_compiled(module: Any, begins: Callable[..., None], ended: Callable[..., None]) -> None:
    """Tell of the calls of a module that was compiled in place, if it was."""
    compiled = module._compiled_call_impl
    if compiled is not None and not isinstance(compiled, CompiledCall):
        module._compiled_call_impl = CompiledCall(module, begins, ended)


def tell_no_more_of_compiled(module: Any) -> None:
    """Take that back."""
    compiled = module._compiled_call_impl
    if isinstance(compiled, CompiledCall):
        module._compiled_call_impl = compiled.compiled


class Hooks:
    """Those of one loop."""

    def __init__(self, loop: TorchLoop) -> None:
        self._loop = loop
        self._on_call = Hook(loop, loop.tell_forward_begins)
        self._on_return = Hook(loop, loop.tell_forward_ended)
        self._on_step = Hook(loop, self._step_begins, self._step_begins_elsewhere)
        self._on_step_end = Hook(loop, self._step_ended)
        self._of_modules: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
        self._of_optimizers: list[Any] = []
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._every_optimizer = False

    def watch_model(self, module: Any) -> None:
        """Hook an outermost module, or a criterion. Raises for what is no module."""
        if not self.knows(module):
            self.hook_end(module)
            self._of_modules[module].append(module.register_forward_pre_hook(self._on_call))
        tell_of_compiled(module, self._on_call, self._on_return)

    def compiled_in_place(self, module: Any) -> None:
        """A module was compiled in place."""
        if self.knows(module):
            tell_of_compiled(module, self._on_call, self._on_return)

    def hook_end(self, module: Any) -> None:
        """Hook only the end of its calls. Raises for what is no module."""
        end = module.register_forward_hook(self._on_return, with_kwargs=True, always_call=True)
        self._of_modules[module] = [end]

    def knows(self, module: Any) -> bool:
        """Whether the end of the module's calls is hooked."""
        return module in self._of_modules

    @contextlib.contextmanager
    def off(self, module: Any) -> Iterator[None]:
        """Within it a module and all within it bear none of our hooks."""
        with self._off(module.modules):
            yield

    @contextlib.contextmanager
    def all_off(self) -> Iterator[None]:
        """Within it no module bears a hook of ours."""
        with self._off(self._of_modules.keys):
            yield

    @contextlib.contextmanager
    def _off(self, modules: Callable[[], Iterable[Any]]) -> Iterator[None]:
        hooked: list[Any] = []
        guard = self._loop.monitor.guard
        guard(self._take_off, modules, hooked)
        try:
            yield
        finally:
            guard(self._put_back, hooked)

    def _take_off(self, modules: Callable[[], Iterable[Any]], hooked: list[Any]) -> None:
        for each in list(modules()):
            if len(self._of_modules.get(each, ())) == _BOTH_ENDS:
                hooked.append(each)
            self._unhook(each)

    def _put_back(self, hooked: list[Any]) -> None:
        for each in hooked:
            self.watch_model(each)

    def watch_optimizer(self, optimizer: Any) -> None:
        """Hook this optimizer, or that which it wraps. Raises for what is no optimizer."""
        while hasattr(optimizer, "optimizer") and "_optimizer_step_pre_hooks" not in vars(optimizer):
            optimizer = optimizer.optimizer
        if not self.sees(optimizer):
            self._optimizers.add(optimizer)
            self._of_optimizers.append(optimizer.register_step_pre_hook(self._on_step))
            self._of_optimizers.append(optimizer.register_step_post_hook(self._on_step_end))

    def watch_every_optimizer(self) -> None:
        """Hook all optimizers of the process."""
        self._every_optimizer = True
        self._of_optimizers.append(register_optimizer_step_pre_hook(self._on_step))
        self._of_optimizers.append(register_optimizer_step_post_hook(self._on_step_end))

    def sees(self, optimizer: Any) -> bool:
        """Whether a step of this optimizer would be told."""
        return self._every_optimizer or optimizer in self._optimizers

    def remove(self) -> None:
        """Take every hook off again."""
        for module in list(self._of_modules):
            self._unhook(module)
            tell_no_more_of_compiled(module)
        while self._of_optimizers:
            self._of_optimizers.pop().remove()
        self._optimizers.clear()

    def _unhook(self, module: Any) -> None:
        for handle in self._of_modules.pop(module, ()):
            handle.remove()

    def _step_begins(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        loop = self._loop
        if loop.stepping and steps_on_the_stack() <= 1:
            loop.stepping = 0  # the one before was left by an exception
        loop.tell_optimizer_begins(optimizer)

    def _step_begins_elsewhere(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._loop.in_backward:  # on a thread of a device
            self._loop.stepped_in_backward = self._loop.stepped_in_backward or optimizer

    def _step_ended(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._loop.tell_optimizer_ended(optimizer)


def steps_on_the_stack() -> int:
    """How many `Optimizer.step` the caller runs within."""
    count = 0
    file_name = torch.optim.Optimizer.profile_hook_step.__code__.co_filename
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "wrapper" and code.co_filename == file_name:
            count += 1
        frame = frame.f_back  # type: ignore[assignment]
    return count
