"""Figures as people read them, alike in tables and reports; an en dash is unknown."""

from __future__ import annotations

import math
import time

from exporters.api.models import Failure

UNKNOWN = "\N{EN DASH}"


def number(value: float | None) -> str:
    """Four significant digits, in full from thousands on."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e9):
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 999.95 else f"{value:.4g}"


def compact(value: float | None) -> str:
    """Three significant digits, such as 12.3k."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    rounded = float(f"{value:.3g}")
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= size:
            return f"{rounded / size:.3g}{letter}"
    return f"{rounded:.3g}"


def percent(ratio: float | None) -> str:
    """Whole; 100 % is all of it."""
    if ratio is None or not math.isfinite(ratio):
        return UNKNOWN
    return "99 %" if 0.99 < ratio < 1 else f"{ratio:.0%}".replace("%", " %")


def duration(seconds: float | None) -> str:
    """The two greatest units, such as 3 h 12 min."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = round(whole / 3600)
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def size(count: float | None) -> str:
    """Bytes, such as 1.5 GiB."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    power = min(5, int(math.log2(max(1.0, count)) // 10))
    if round(count / 1024**power) == 1024:
        power += 1
    scaled = count / 1024**power
    digits = f"{scaled:.0f}" if scaled >= 100 else f"{scaled:.3g}"
    return f"{digits} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power]}"


def moment(at: float | None, now: float) -> str:
    """The local time of a moment in unix seconds, with its day where that is another than now's."""
    if at is None:
        return UNKNOWN
    try:
        then, today = time.localtime(at), time.localtime(now)
    except (OverflowError, ValueError, OSError):
        return UNKNOWN
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%d %b %H:%M" if then[0] == today[0] else "%d %b %Y", then)


def exception(failure: Failure) -> str:
    """Its type, where it was raised, and what it said where that is known."""
    place = f" at {failure.place}" if failure.place else ""
    message = f": {failure.message}" if failure.message else ""
    return f"{failure.type}{place}{message}"


def printable(text: str) -> str:
    """The text without what a terminal would obey; line breaks are spaces."""
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )
