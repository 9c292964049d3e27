"""What somebody tells an adapter of a run, and the Monitor that it opens with that."""

from __future__ import annotations

from typing import NamedTuple

from trainer_hooks.monitor import Monitor


class Options(NamedTuple):
    """See Monitor; `model` and `dataset` are what is trained on what, for the run's info."""

    run: str | None = None
    name: str | None = None
    loss_kind: str | None = None
    model: str | None = None
    dataset: str | None = None
    record_messages: bool = False

    def monitor(
        self,
        *,
        framework: str,
        name: str | None = None,
        loss_kind: str | None = None,
        model: str = "",
        precision: str = "",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> Monitor:
        """A Monitor of what the framework tells, where nobody has told otherwise."""
        return Monitor(
            run=self.run,
            name=self.name or name,
            rank=rank,
            world_size=world_size,
            loss_kind=self.loss_kind or loss_kind,
            info={
                "model": self.model or model,
                "dataset": self.dataset or "",
                "framework": framework,
                "precision": precision,
            },
            record_messages=self.record_messages,
        )
