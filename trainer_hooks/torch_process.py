"""Where a training can be seen whose script says nothing, or hardly anything: torch's own functions.

Each is put into one that tells a TorchLoop of its calls, and passes arguments, results and exceptions
through. Within a region that torch traces for compilation they are what they were; the hook that finds the
outermost modules is absent while one of them runs, so that no module within one, compiled or not, meets it.
"""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.amp.grad_scaler import GradScaler
from torch.compiler import is_compiling
from torch.nn.modules.module import _global_forward_pre_hooks, register_module_forward_pre_hook
from torch.nn.utils import clip_grad
from torch.utils.data import dataloader

from trainer_hooks.monitor import Monitor, current, warn
from trainer_hooks.torch_hooks import tell_of_compiled
from trainer_hooks.torch_loop import TorchLoop
from trainer_hooks.wrapping import put_around

_F = TypeVar("_F", bound=Callable[..., Any])

_watching: weakref.WeakKeyDictionary[Monitor, TorchLoop] = weakref.WeakKeyDictionary()


def watch(monitor: Monitor, *watched: Any) -> TorchLoop:
    """Follow these models, criteria and optimizers; also all backward passes, loaders and loss scalers."""
    loop = _watching.get(monitor)
    if loop is None:
        loop = _watching[monitor] = TorchLoop(monitor)
        functions = Functions(lambda: loop if loop.monitor.recording else None)
        monitor.when_closing(functions.restore)
        monitor.when_closing(functools.partial(_forget, monitor))
        functions.replace()
    for each in watched:
        if isinstance(each, torch.nn.Module):
            loop.watch_model(each)
        elif each is not None:
            loop.watch_optimizer(each)
    return loop


def _forget(monitor: Monitor) -> None:
    _watching.pop(monitor, None)


def install(open_monitor: Callable[[], Monitor | None]) -> Process:
    """Instrument this process, whose script is unchanged; call it right after torch was imported.

    `open_monitor` is called once, at the first evidence of training: an optimizer is made, or a backward pass
    begins; after a None again at the next. While another Monitor than its records, nothing is told.
    """
    process = Process(open_monitor)
    process.begin()
    return process


class Functions:
    """torch's functions, replaced by such as tell the loop that is `current`."""

    def __init__(self, current: Callable[[], TorchLoop | None]) -> None:
        self._current = current
        self._take_off: list[Callable[[], None]] = []

    def replace(self) -> None:
        """Replace what every way of watching needs."""
        self.put(torch.autograd, "backward", self._backward)
        self.put(dataloader._BaseDataLoaderIter, "__next__", self._next)
        self.put(torch.nn.utils, "clip_grad_norm_", self._norm, clip_grad)
        if hasattr(torch.nn.utils, "get_total_norm"):  # younger than torch 2.4
            self.put(torch.nn.utils, "get_total_norm", self._norm)
        self.put(GradScaler, "scale", self._scale)
        self.put(GradScaler, "step", self._scaler_step)
        self.put(GradScaler, "update", self._update)
        self.put(torch.jit._recursive, "create_script_module", self._script)
        self.put(torch.nn.Module, "compile", self._compile)
        self.put(torch, "save", self._bare_save, torch.serialization)

    def put(self, owner: Any, name: str, around: Callable[[_F], _F], *others: Any) -> None:
        """Put `around` around a function of a module or class, and of `others` that have the same one."""
        self._take_off.append(put_around(owner, name, around, *others))

    def restore(self) -> None:
        """Take everything back; what somebody put theirs around stays, and tells nobody any more."""
        while self._take_off:
            self._take_off.pop()()

    def loop(self) -> TorchLoop | None:
        """Who is to be told of what happens on this thread now."""
        if is_compiling():
            return None
        loop = self._current()
        return loop if loop is not None and loop.here() else None

    def before_backward(self) -> TorchLoop | None:
        """Who is current when a backward pass is about to begin."""
        return self._current()

    def _backward(self, original: Any) -> Any:
        before = self.before_backward

        def backward(*args: Any, **kwargs: Any) -> Any:
            if is_compiling():
                return original(*args, **kwargs)
            loop = before()
            if loop is None or not loop.may_go_backward_here():
                return original(*args, **kwargs)
            loss = args[0] if args else kwargs.get("tensors")
            if isinstance(loss, (list, tuple)) and len(loss) == 1:
                loss = loss[0]
            loop.backward_begins(loss)
            completed = False
            try:
                result = original(*args, **kwargs)
                completed = True
                return result
            finally:
                loop.backward_ended(completed)

        return backward

    def _next(self, original: Any) -> Any:
        def __next__(iterator: Any) -> Any:  # noqa: N807
            loop = self.loop()
            if loop is None:
                return original(iterator)
            loop.data_begins(_source(iterator))
            fetched = False
            try:
                batch = original(iterator)
                fetched = True
                return batch
            finally:
                loop.data_ended(fetched)

        return __next__

    def _norm(self, original: Any) -> Any:
        of_gradients = original.__name__.startswith("clip")

        def norm(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            loop = self.loop()
            if loop is not None and (of_gradients or not _are_parameters(args)):
                loop.gradient_norm(result if is_euclid(args[1 + of_gradients :], kwargs) else None)
            return result

        return norm

    def _scale(self, original: Any) -> Any:
        def scale(scaler: Any, outputs: Any) -> Any:
            result = original(scaler, outputs)
            loop = self.loop()
            if loop is not None:
                loop.scaled(outputs, result)
            return result

        return scale

    def _scaler_step(self, original: Any) -> Any:
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            loop = self.loop()
            begun = None if loop is None else loop.scaler_begins(optimizer)
            result = original(scaler, optimizer, *args, **kwargs)
            if loop is not None and loop.steps_begun == begun:
                loop.skipped(optimizer)
            return result

        return step

    def _update(self, original: Any) -> Any:
        def update(scaler: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(scaler, *args, **kwargs)
            loop = self.loop()
            if loop is not None:
                loop.loss_scale(scaler)
            return result

        return update

    def _compile(self, original: Any) -> Any:
        def compile(module: Any, *args: Any, **kwargs: Any) -> None:
            original(module, *args, **kwargs)
            try:
                self.compiled_in_place(module)
            except Exception as error:
                warn("telemetry misses a compiled module: %s", type(error).__name__)

        return compile

    def compiled_in_place(self, module: Any) -> None:
        """A module was compiled in place, so that its hooks are compiled away."""
        loop = self._current()
        if loop is not None:
            loop.hooks.compiled_in_place(module)

    def _bare_save(self, original: Any) -> Any:
        def save(*args: Any, **kwargs: Any) -> Any:
            loop = self.loop()
            if loop is None or not loop.can_do_without_hooks():
                return original(*args, **kwargs)
            with loop.hooks.all_off():  # a model is saved with its hooks
                return original(*args, **kwargs)

        return save

    def _script(self, original: Any) -> Any:
        def create_script_module(module: Any, *args: Any, **kwargs: Any) -> Any:
            loop = self._current()
            if loop is None:
                return original(module, *args, **kwargs)
            with loop.hooks.off(module):  # TorchScript would compile the hooks
                return original(module, *args, **kwargs)

        return create_script_module


class Process:
    """A process whose script is unchanged."""

    def __init__(self, open_monitor: Callable[[], Monitor | None]) -> None:
        self._open_monitor: Callable[[], Monitor | None] | None = open_monitor
        self._loop: TorchLoop | None = None
        self._root_hook = _RootHook(self._current_loop)
        self._functions = _Evident(self._current_loop, self._evidence, self._root_hook)

    def begin(self) -> None:
        """Replace torch's functions."""
        self._functions.replace()
        self._functions.put(torch, "save", self._save, torch.serialization)
        self._functions.put(torch.optim.Optimizer, "__init__", self._optimizer)

    def watch_saves(self, owner: Any, name: str) -> None:
        """Make a checkpoint of each call of `owner.name` after the first backward pass.

        Its path is the second argument, `self` counted: as of `save_pretrained(self, folder)`.
        """
        self._functions.put(owner, name, self._save)

    def remove(self) -> None:
        """Take everything back."""
        self._functions.restore()
        self._root_hook.remove()
        if self._loop is not None:
            self._loop.close()

    def _current_loop(self) -> TorchLoop | None:
        loop = self._loop
        return loop if loop is not None and current() is loop.monitor else None

    def _evidence(self) -> None:
        """There is a training: record it, unless somebody else does."""
        try:
            recording = current()
            if self._open_monitor is None or (recording is not None and not recording.provisional):
                self._root_hook.arm_for(self._current_loop())
                return
            open_monitor, self._open_monitor = self._open_monitor, None
            monitor = open_monitor()
            if monitor is None:
                self._open_monitor = open_monitor
            if monitor is not None and monitor.recording:
                self._loop = loop = _watching[monitor] = TorchLoop(monitor)
                monitor.when_closing(functools.partial(_forget, monitor))
                loop.hooks.watch_every_optimizer()
                monitor.when_closing(self._root_hook.remove)
                self._root_hook.arm_for(loop)
        except Exception as error:
            if self._loop is not None:
                self._loop.monitor.fault(error)
            else:
                warn("telemetry is off for this process: %s", type(error).__name__)

    def _optimizer(self, original: Any) -> Any:
        def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(optimizer, *args, **kwargs)
            if not is_compiling():
                self._evidence()

        return __init__

    def _save(self, original: Any) -> Any:
        path_of = _path_of(original)

        def save(*args: Any, **kwargs: Any) -> Any:
            loop = self._functions.loop()
            path = None if loop is None else path_of(args, kwargs)
            if loop is None or path is None or loop.saving or not loop.trained:
                return original(*args, **kwargs)
            loop.saving = True
            try:
                with loop.monitor.checkpoint(path):
                    return original(*args, **kwargs)
            finally:
                loop.saving = False

        return save


class _Evident(Functions):
    """Functions of which a backward pass is evidence of a training."""

    def __init__(
        self, current: Callable[[], TorchLoop | None], evidence: Callable[[], None], root_hook: _RootHook
    ) -> None:
        super().__init__(current)
        self._evidence = evidence
        self._root_hook = root_hook

    def before_backward(self) -> TorchLoop | None:
        self._evidence()
        return self._current()

    def compiled_in_place(self, module: Any) -> None:
        tell_of_compiled(module, self._compiled_begins, self._compiled_ended)

    def _compiled_begins(self, module: Any, args: Any, kwargs: Any) -> None:
        loop = self.loop()
        if loop is not None:
            self._root_hook.remove()  # or it would be among what the compiled module depends on
            loop.forward_begins(module, args, kwargs)

    def _compiled_ended(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        loop = self.loop()
        if loop is not None:
            loop.forward_ended(module, args, kwargs, output)


class _RootHook:
    """A hook on all modules that is there only while none of them runs: it finds the outermost ones.

    It keeps its number for good: what torch compiled with it there is not compiled again.
    """

    def __init__(self, loop: Callable[[], TorchLoop | None]) -> None:
        self._loop = loop
        self._number: int | None = None

    def arm_for(self, loop: TorchLoop | None) -> None:
        """Be there, where there is a loop to tell."""
        if loop is not None:
            loop.when_released = self._arm
            self._arm()

    def remove(self) -> None:
        """Be there no more."""
        if self._number is not None:
            _global_forward_pre_hooks.pop(self._number, None)

    def _arm(self) -> None:
        if self._number is None:
            self._number = register_module_forward_pre_hook(self._called).id
        else:
            _global_forward_pre_hooks[self._number] = self._called

    def _called(self, module: Any, args: Any) -> None:
        if is_compiling():
            return
        loop = self._loop()
        if loop is None:
            self.remove()  # somebody else records
        elif loop.here():
            self.remove()
            loop.monitor.guard(self._tell, loop, module, args)

    def _tell(self, loop: TorchLoop, module: Any, args: Any) -> None:
        try:
            if not loop.hooks.knows(module):
                loop.hooks.hook_end(module)
        except Exception:
            self._arm()
            raise
        loop.tell_forward_begins(module, args)


def tell_norm(loop: TorchLoop, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Clip by a framework's own method, which returns the norm of the gradients, or None."""
    norm = original(*args, **kwargs)
    if norm is not None:
        loop.gradient_norm(norm)
    return norm


def is_euclid(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a norm is the usual one; `args` begin with its kind, where that is given by its place."""
    kind = args[0] if args else kwargs.get("norm_type", 2.0)
    return isinstance(kind, (int, float)) and kind == 2.0  # a tensor is not asked: that may wait


def _are_parameters(args: tuple[Any, ...]) -> bool:
    """Whether the tensors a norm was taken of are weights and no gradients."""
    tensors = args[0] if args else None
    first = tensors[0] if isinstance(tensors, (list, tuple)) and tensors else tensors
    return isinstance(first, torch.nn.Parameter)


def _source(iterator: Any) -> Any:
    """What tells one loader's data from another's, and can be held without being kept."""
    try:
        dataset = getattr(iterator, "_dataset", None)
        return dataset if hasattr(dataset, "__weakref__") else iterator
    except Exception:  # a stranger's __getattr__
        return iterator


def _path_of(save: Any) -> Callable[[tuple[Any, ...], dict[str, Any]], str | None]:
    """How to tell the path among the arguments: the second, by place or by name."""
    try:
        name = list(inspect.signature(save).parameters)[1]
    except (TypeError, ValueError, IndexError):
        name = ""

    def path_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        given = args[1] if len(args) > 1 else kwargs.get(name)
        try:
            path = os.fspath(given) if isinstance(given, os.PathLike) else getattr(given, "name", given)
        except Exception:  # whatever it is, the save itself will tell
            return None
        return path if isinstance(path, str) else None

    return path_of
