"""`trainvitals report`: what one or several runs came to, in one file that can be handed on."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from trainvitals import options, sources
from trainvitals.report_data import MOST_RUNS, collected, compared
from trainvitals.report_html import page
from trainvitals.sources import NoServiceError, SourceError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="The runs; several are compared.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("report.html"),
    url: Annotated[str, typer.Option(help="Where the service is.")] = sources.DEFAULT_URL,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with a token, for a service that wants one.")
    ] = None,
    database: Annotated[
        Path | None, typer.Option(help="Read this database of a service, also of one that has ended.")
    ] = None,
) -> None:
    """Write a report that needs no network: figures, charts, what went wrong and when, environment, cost."""
    names = list(dict.fromkeys(runs))
    if len(names) > MOST_RUNS:
        options.stop("report", f"{len(names)} runs are too many for one report; give it {MOST_RUNS} at most")
    try:
        source = sources.opened(url, token_file, database)
    except SourceError as error:
        options.stop("report", str(error))
    try:
        data = [collected(source, name) for name in names]
        text = page(data, compared(source, names) if len(names) > 1 else [], source.name, made_at=time.time())
        is_file = _write(output, text)
    except NoServiceError as error:
        options.stop("report", f"{error}; without a service, --database PATH reads what it kept")
    except SourceError as error:
        options.stop("report", str(error))
    except OSError as error:
        options.stop("report", f"{output} cannot be written: {error.strerror or error}")
    finally:
        source.close()
    if is_file:
        print(f"trainvitals report: {output}")


def _write(path: Path, text: str) -> bool:
    """A file whole or not at all, where a link leads to, too; what is no file, a pipe or a device, as it is.

    Returns whether it is a file.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        return False
    path = path.resolve()
    folder = path.parent
    with tempfile.NamedTemporaryFile(
        "w", dir=folder, encoding="utf-8", errors="replace", delete=False
    ) as file:
        try:
            file.write(text)
            file.close()
            umask = os.umask(0)
            os.umask(umask)
            Path(file.name).chmod(0o666 & ~umask)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return True
