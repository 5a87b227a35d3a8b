"""A real Chromium, Debian's, led by Playwright: one for the whole run, a fresh context for each look."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"

LAPTOP: ViewportSize = {"width": 1360, "height": 850}
PHONE: ViewportSize = {"width": 390, "height": 844}

Scheme = Literal["light", "dark"]


@contextmanager
def chromium(command: str | None = None) -> Iterator[Browser]:
    """Start it; `command` is what runs it, such as one that enters a namespace first."""
    executable = command or shutil.which("chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page(
    browser: Browser, url: str, size: ViewportSize | None = None, scheme: Scheme = "light", **settings: Any
) -> Iterator[Page]:
    """Open a page. Whatever it complains of, or throws, fails the test: a script that is blocked, too."""
    context = browser.new_context(
        viewport=size or LAPTOP,
        color_scheme=scheme,
        device_scale_factor=1,
        **settings,
    )
    complaints: list[str] = []
    try:
        opened = context.new_page()
        opened.set_default_timeout(8000)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on(
            "console",
            lambda said: complaints.append(said.text) if _is_complaint(said.text, said.type) else None,
        )
        opened.goto(url)
        yield opened
    except BaseException as error:
        if complaints:
            error.add_note(f"the page complains: {complaints}")
        raise
    finally:
        context.close()
    assert complaints == []


def screenshot(of: Page, name: str, *, whole: bool = True) -> Path:
    """Keep a picture of a page as test output."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    file = SCREENSHOTS / f"{name}.png"
    of.screenshot(path=file, full_page=whole)
    return file


def _is_complaint(text: str, kind: str) -> bool:
    # A browser writes a line for each answer that is a problem, and for a lost connection; so does the page.
    return kind in {"error", "warning"} and "Failed to load resource" not in text
