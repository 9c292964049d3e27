"""What a torch training does, as calls of a Monitor: steps, micro-batches, losses, tokens, phases.

*Steps.* The first optimizer that steps leads: its steps count. Another one takes over when the leader is
gone, or has not stepped while the other did so `_PATIENCE` times. A step within a step (`super().step()`, an
optimizer around another) is part of it. Steps within a backward pass, one for each parameter, are one step
together with that pass.

*Micro-batches.* A backward pass is one, provided that a step of the leader, or one its loss scaler skipped,
follows before another optimizer's; a pass that needed no new forward pass belongs to the one before. Where a
model returned several losses before the pass, and it is taken of their sum, each of these calls is a
micro-batch; where it is taken of the last, the others came to nothing.

*Losses.* That which the model returned, else that of the one criterion called, else the scalar the backward
pass was taken of. Only the scalar may have been divided by the number of micro-batches of the step: it is
multiplied again where it was last divided by just the number of passes of its step, or of the longest step
so far, the last one of an epoch being shorter.

*Evaluation* is the time from a call, in evaluation mode, of a model that was trained before (or of any model
without gradients that returns a loss, or that has been given a second batch since the last training) up to
the next call in training mode, backward pass, step, or wait for another iterator than its own.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from threading import get_ident
from time import monotonic_ns
from typing import Any, TypeVar

from torch import is_grad_enabled
from torch._C import _get_tracing_state
from torch.compiler import is_compiling

from trainer_hooks import readback
from trainer_hooks.monitor import BACKWARD, DATA, EVALUATION, FORWARD, OPTIMIZER, OTHER, Monitor
from trainer_hooks.torch_calls import Call, Root, function_of
from trainer_hooks.torch_hooks import Hooks
from trainer_hooks.torch_window import UNKNOWN, Evaluation, Scalar, Window

_PATIENCE = 10
_MOST_SCALED = 4
_MOST_CALLS = 256  # without a backward pass

_F = TypeVar("_F", bound=Callable[..., None])


def _harmless(method: _F) -> _F:
    """Keep every fault away from the training; say nothing where nothing is recorded."""

    @functools.wraps(method)
    def harmless(self: TorchLoop, *arguments: Any, **keywords: Any) -> None:
        monitor = self.monitor
        if not monitor.recording or is_compiling():
            return
        began = monotonic_ns()
        spent_ns = monitor._hook_ns
        try:
            method(self, *arguments, **keywords)
        except Exception as error:
            monitor.fault(error)
        monitor._hook_ns = spent_ns + monotonic_ns() - began

    return harmless  # type: ignore[return-value]


class TorchLoop:
    """Turns what a torch training does into calls of a Monitor. No method raises.

    It follows the thread that runs the first backward pass, and until then the one that made it.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.thread = get_ident()
        self.trained = False  # whether there was a backward pass
        self.in_backward = 0
        self.stepping = 0
        self.stepped_in_backward: Any = None  # the first optimizer that did so in the current pass
        self.steps_begun = 0
        self.saving = False
        self.evaluations = 0  # those that told a loss
        self.when_released: Callable[[], None] = _nothing  # no outermost module is being called any more
        self.hooks = Hooks(self)
        self._enter = monitor.enter
        self._when_closed: list[Callable[[], None]] = []
        self._roots: weakref.WeakKeyDictionary[Any, Root] = weakref.WeakKeyDictionary()
        self._active: Any = None  # the outermost module that is being called
        self._active_root: Any = None
        self._calls: list[Call] = []  # since the last backward pass, of those with gradients
        self._window = Window(monitor, _told_loss_kind(monitor))
        self._scaled: list[tuple[Callable[[], Any], Scalar]] = []
        self._waits = 0
        self._fetched = 0  # since the last training
        self._source: Callable[[], Any] = _nothing
        self._evaluation: Evaluation | None = None
        self._not_in_training: list[Root] = []  # models called in evaluation mode, but with gradients
        self._step_counted = False
        self._leader: Callable[[], Any] = _nothing
        self._followers: dict[int, int] = {}  # steps of others since the leader's last
        self._gradient_norm: Any = None
        self._overflows: list[readback.Pending] = []
        # The end of the recording must find nothing in hand.
        monitor._close = functools.partial(self._monitor_closes, monitor._close)  # type: ignore[method-assign]

    def _monitor_closes(self, close: Callable[..., None], *arguments: Any, **keywords: Any) -> None:
        self.monitor.guard(self.close)
        close(*arguments, **keywords)

    def here(self) -> bool:
        """Whether what happens now is part of the training that is followed."""
        return get_ident() == self.thread and not _get_tracing_state()

    @_harmless
    def watch_model(self, module: Any) -> None:
        """Hook an outermost module (the DDP, FSDP or compiled wrapper), or a criterion."""
        self.hooks.watch_model(module)

    @_harmless
    def watch_optimizer(self, optimizer: Any) -> None:
        """Hook this optimizer, or that which it wraps."""
        self.hooks.watch_optimizer(optimizer)

    # Forward

    def tell_forward_begins(
        self, module: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """The outermost module, or a criterion, is called. Raises what a stranger's module raises."""
        if self.in_backward or self._active is not None:
            return  # a recomputation, or a module within another
        self._active = module
        root = self._roots.get(module)
        if root is None:
            root = self._roots[module] = Root(module)
        self._active_root = root
        if root.criterion:
            if self._evaluation is None:
                self._enter(FORWARD)
        elif is_grad_enabled() and (module.training or root.trains_in_eval):
            if self._evaluation is not None:
                self._end_evaluation()
            root.trained = True
            self._fetched = 0
            self._enter(FORWARD)
        elif self._evaluation is None:
            if (root.trained and not module.training) or self._fetched > 1:
                self._begin_evaluation()
            else:
                self._enter(FORWARD)

    forward_begins = _harmless(tell_forward_begins)

    def tell_forward_ended(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        """It returned; `output` is None where it raised. Raises what a stranger's arguments raise."""
        if module is not self._active:
            return
        try:
            if output is None:
                self.monitor.passes(sys.exc_info()[1])
            else:
                self._read(module, self._active_root, args, kwargs, output)
        finally:
            self._release()
            if self._evaluation is None:
                self._enter(OPTIMIZER if self.stepping else OTHER)

    forward_ended = _harmless(tell_forward_ended)

    def _read(self, module: Any, root: Root, args: Any, kwargs: Any, output: Any) -> None:
        call = root.read(module, args, kwargs, output)
        trains = call.with_gradients and (module.training or root.trains_in_eval)
        if not trains and not root.criterion and call.loss is not None and self._evaluation is None:
            self._begin_evaluation()
        if self._evaluation is not None:
            self._evaluation.add(call)
            if not root.criterion:
                self._calls.clear()
            self.monitor.progress()
        if call.with_gradients:
            self._calls.append(call)
            if len(self._calls) > _MOST_CALLS:
                del self._calls[0]
            if not trains and not root.criterion and root not in self._not_in_training:
                self._not_in_training.append(root)

    def _release(self) -> None:
        self._active = self._active_root = None
        self.when_released()

    # Backward

    @_harmless
    def backward_begins(self, loss: Any = None) -> None:
        """A backward pass begins; `loss` is what it is taken of, undivided where the caller knows."""
        if not self.trained:
            self.thread = get_ident()
            self.trained = True
        self.in_backward += 1
        if self.in_backward > 1:
            return
        if self._active is not None:
            self._release()
        self._fetched = 0
        self.stepped_in_backward = None
        if self._not_in_training or self._evaluation is not None:
            self._learn_who_trains()
        calls, self._calls = self._calls, []
        self._window.take(calls, self._unscaled(loss) if self._scaled else loss)
        self._enter(BACKWARD)

    def may_go_backward_here(self) -> bool:
        """Whether a backward pass that begins now would be followed."""
        return (not self.trained or get_ident() == self.thread) and not _get_tracing_state()

    @_harmless
    def backward_ended(self, completed: bool = True) -> None:
        """It ended: one micro-batch, should the leading optimizer make use of it."""
        if not self.in_backward:
            return
        self.in_backward -= 1
        if self.in_backward:
            return
        optimizer, self.stepped_in_backward = self.stepped_in_backward, None
        self._step_counted = False
        if not completed:
            self.monitor.passes(sys.exc_info()[1])
            self._window.drop_last()
        elif optimizer is not None:
            self._leader = weakref.ref(optimizer)
            self._stepped(optimizer)
            self._step_counted = True
        elif len(self._window) > 1:
            self.monitor.progress()  # a long accumulation is no stall
        self._enter(self._resting())

    def _learn_who_trains(self) -> None:
        """What seemed to be an evaluation, in evaluation mode but with gradients, may be a training."""
        roots, self._not_in_training = self._not_in_training, []
        for root in roots:
            root.trains_in_eval = root.trained = True
        if roots:
            self._evaluation = None
        else:
            self._end_evaluation()

    @_harmless
    def scaled(self, loss: Any, scaled: Any) -> None:
        """A loss scaler made `scaled` of this loss, to take the backward pass of it."""
        if scaled is not loss and hasattr(scaled, "ndim") and not self.in_backward:
            del self._scaled[: 1 - _MOST_SCALED]
            scalar = Scalar(loss)
            scalar.function = function_of(loss)
            self._scaled.append((weakref.ref(scaled), scalar))

    def _unscaled(self, loss: Any) -> Scalar:
        scaled, self._scaled = self._scaled, []
        return next((scalar for reference, scalar in scaled if reference() is loss), UNKNOWN)

    # Steps

    def tell_optimizer_begins(self, optimizer: Any) -> None:
        """`optimizer.step` begins."""
        self.steps_begun += 1
        if self.in_backward and not self.stepping:
            self.stepped_in_backward = self.stepped_in_backward or optimizer
            return
        self.stepping += 1
        if self.stepping == 1:
            if self._active is not None:
                self._release()
            if self._evaluation is not None:
                self._end_evaluation()
            self._enter(OPTIMIZER)

    optimizer_begins = _harmless(tell_optimizer_begins)

    def tell_optimizer_ended(self, optimizer: Any) -> None:
        """It ended; where this optimizer leads, an optimizer step was made."""
        if not self.stepping:
            return  # of a step within a backward pass
        self.stepping -= 1
        if self.stepping:
            return
        if (self._overflows or hasattr(optimizer, "found_inf")) and self._overflowed(optimizer):
            self._skipped(optimizer)
        elif not self._step_counted:
            self._stepped(optimizer)
        self._step_counted = False
        self._enter(OTHER)

    optimizer_ended = _harmless(tell_optimizer_ended)

    def _stepped(self, optimizer: Any) -> None:
        monitor = self.monitor
        norm, self._gradient_norm = self._gradient_norm, None
        if not self._leads(optimizer):
            self._window.clear()
            return
        monitor.learning_rates([group["lr"] for group in optimizer.param_groups if "lr" in group])
        if norm is not None:
            monitor.log(gradient_norm=norm)
        self._window.record()
        monitor.end_step()

    def _leads(self, optimizer: Any) -> bool:
        leader = self._leader()
        if leader is not None and leader is not optimizer:
            steps = self._followers[id(optimizer)] = self._followers.get(id(optimizer), 0) + 1
            if steps <= _PATIENCE:
                return False
        if leader is not optimizer:
            self._leader = weakref.ref(optimizer)
        self._followers.clear()
        return True

    @_harmless
    def gradient_norm(self, norm: Any) -> None:
        """The norm of the gradients before the optimizer step to come, a number or a tensor."""
        self._gradient_norm = norm.detach() if hasattr(norm, "detach") else norm

    def scaler_begins(self, optimizer: Any) -> int | None:
        """A loss scaler's step begins, which looks at the gradients first; how many steps began so far.

        None where a step of this optimizer would not be told.
        """
        try:
            if not self.hooks.sees(optimizer):
                return None
        except Exception as error:  # of a stranger's optimizer
            self.monitor.fault(error)
            return None
        if self._evaluation is None:
            self._enter(OPTIMIZER)
        return self.steps_begun

    @_harmless
    def skipped(self, optimizer: Any = None) -> None:
        """The loss scaler left out the step of this optimizer."""
        self._end_evaluation()
        self._skipped(optimizer)
        self._enter(OTHER)

    def _skipped(self, optimizer: Any) -> None:
        self._gradient_norm = None  # that of gradients nobody used
        if optimizer is not None and not self._leads(optimizer):
            self._window.clear()
            return
        self._window.record()
        self.monitor.skip_step()

    @_harmless
    def loss_scale(self, scaler: Any) -> None:
        """The newest scale of a GradScaler."""
        scale = getattr(scaler, "_scale", None)
        if scale is not None:
            self.monitor.log(loss_scale=scale)

    def _overflowed(self, optimizer: Any) -> bool:
        """Whether a fused optimizer, which the scaler calls in any case, found that it must do nothing.

        On a device that is known only later: the step counts then, and as skipped as well.
        """
        for pending in [each for each in self._overflows if each.arrived()]:
            self._overflows.remove(pending)
            if pending.take():
                self.monitor.skip_step()
        found = getattr(optimizer, "found_inf", None)
        if found is None:
            return False
        number = readback.read(found)
        if isinstance(number, readback.Pending):
            self._overflows.append(number)
            return False
        return bool(number)

    # Data

    @_harmless
    def data_begins(self, source: Any = None) -> None:
        """The training waits for data; `source`, an object, tells one set of them from another."""
        self._waits += 1
        if self._waits > 1:
            return
        if self._source() is not source:
            self._end_evaluation()
            self._source = _nothing if source is None else weakref.ref(source)
        if self._evaluation is None:
            self._enter(DATA)

    @_harmless
    def data_ended(self, fetched: bool = True) -> None:
        """It has got them, or, where not `fetched`, there are no more."""
        if not self._waits:
            return
        self._waits -= 1
        if self._waits:
            return
        # No more is no end of an evaluation: some loaders wait for it before they hand out the last batch.
        self._fetched += fetched
        if self._evaluation is None:
            self._enter(self._resting())

    # Evaluation

    def _begin_evaluation(self) -> None:
        self._evaluation = Evaluation()
        self._enter(EVALUATION)

    def _end_evaluation(self) -> None:
        evaluation, self._evaluation = self._evaluation, None
        if evaluation is None:
            return
        self._not_in_training.clear()
        self._calls.clear()
        self._fetched = 0
        loss, tokens = evaluation.result()
        if loss is not None:
            self.evaluations += 1
            self.monitor.evaluated(loss=loss, tokens=tokens)
        self._enter(OTHER)

    def _resting(self) -> int:
        if self._evaluation is not None:
            return EVALUATION
        return OPTIMIZER if self.stepping else OTHER

    # The end

    def when_closed(self, undo: Callable[[], None]) -> None:
        """Have this done at the end."""
        self._when_closed.append(undo)

    def close(self) -> None:
        """Record what is left of an unfinished step, and take every hook off again."""
        self._finish()
        undone, self._when_closed = self._when_closed, []
        for undo in (self.hooks.remove, *undone):
            self.monitor.guard(undo)

    @_harmless
    def _finish(self) -> None:
        self._end_evaluation()
        self._window.record()


def _nothing() -> None:
    """Stands for a reference to nothing, and for nothing to do."""


def _told_loss_kind(monitor: Monitor) -> str | None:
    recorder = monitor._recorder
    return (recorder.static.info.get("loss_kind") or None) if recorder is not None else None


def install(open_monitor: Callable[[], Monitor | None]) -> Any:
    """Instrument this process, whose script is unchanged: see torch_process.install."""
    from trainer_hooks import torch_process

    return torch_process.install(open_monitor)
