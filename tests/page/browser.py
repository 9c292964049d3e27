"""A tab of a real headless Chromium that remembers what went wrong in it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

PHONE = (390, 844)
DESKTOP = (1280, 900)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. Raises LookupError where it is not installed."""
    path = shutil.which("chromium")
    if path is None:
        raise LookupError("chromium is not installed; ./setup.sh does that")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def wait_for(page: Page, condition: str, seconds: float = 60) -> None:
    """Until the JavaScript expression is true; Playwright's own way is an `eval`, which the page forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


class Tab:
    """A page of a browser. `errors` are the lines of its console that are errors, CSP violations too."""

    def __init__(
        self, browser: Browser, url: str, *, size: tuple[int, int] = DESKTOP, scheme: str = "light"
    ) -> None:
        self.url = url
        self._context = browser.new_context(
            ignore_https_errors=url.startswith("https"),  # a test's certificate is its own
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, path: str = "") -> Page:
        """Load the page at its list, or at `#/…`, and wait until it has something to show."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/{path}")
        self.page.locator("#view > :not(.skeleton)").first.wait_for()
        return self.page

    def open_run(self, path: str) -> Page:
        """A run, until the chart of its loss is drawn, which is the first."""
        page = self.open(f"#/runs/{path}")
        page.locator("[data-chart=loss] .plot.js-plotly-plot").wait_for()
        return page

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def close(self) -> None:
        self._context.close()
