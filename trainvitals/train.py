"""`trainvitals train`: runs the bundled fine-tuning workload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from workload import WorkloadError
from workload.checkpoints import DEFAULT_FOLDER
from workload.presets import TINY, preset_named
from workload.training import train

# Locals in a traceback would show conversations.
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    preset: Annotated[str, typer.Option(help="Size and settings of the training.")] = TINY.name,
    data: Annotated[
        Path | None,
        typer.Option(help='JSONL file of {"messages": [{"role", "content"}]}; chitchat when absent.'),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Optimizer steps in all; the preset's number when absent.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            envvar="TRAINVITALS_RUN", help="Identity of the run: the same again is its next attempt."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Display name; the run's identity is made from it when --run is absent."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the newest checkpoint of the run, or of the newest run."),
    ] = False,
    checkpoints: Annotated[
        Path, typer.Option(help="Folder of checkpoints; each run has its own inside.")
    ] = DEFAULT_FOLDER,
) -> None:
    """Train a causal language model on conversations, and say how much better it became."""
    try:
        result = train(
            preset_named(preset),
            data=data,
            run=run,
            name=name,
            max_steps=max_steps,
            resume=resume,
            checkpoints=checkpoints,
            report=typer.echo,
        )
    except WorkloadError as error:
        typer.echo(f"trainvitals train: {error}", err=True)
        raise typer.Exit(2) from None
    except SystemExit as stopped:  # Lightning's answer to Ctrl-C and SIGTERM
        typer.echo("trainvitals train: stopped; --resume goes on from the newest checkpoint", err=True)
        raise typer.Exit(143 if isinstance(stopped, SIGTERMException) else 130) from None
    before, after = result.perplexity_before, result.perplexity_after
    typer.echo(f"checkpoint: {result.checkpoint}")
    typer.echo(
        f"run {result.run}: {result.steps:,} steps, "
        f"validation perplexity {before:,.1f} before and {after:,.1f} after"
    )
