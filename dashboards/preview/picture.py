"""What came of rendering a dashboard: the file, and how each of its panels came out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class PreviewError(Exception):
    """The pictures cannot be made; the message says what to do."""


class PanelReport(NamedTuple):
    """How a panel came out. `empty` is one whose queries all found nothing."""

    id: int
    title: str
    empty: bool
    errors: tuple[str, ...]


class Picture(NamedTuple):
    """A dashboard's PNG. `errors` are those of its variables and annotations, and of the page itself."""

    path: Path
    uid: str
    theme: str
    width: int
    panels: tuple[PanelReport, ...]
    errors: tuple[str, ...]

    def all_errors(self) -> list[str]:
        """Every error as a line; one of a panel names it."""
        of_panels = [f"{panel.title}: {error}" for panel in self.panels for error in panel.errors]
        return [*self.errors, *of_panels]
