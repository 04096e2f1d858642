"""Measure how large a report is, how fast it opens and how smoothly it moves: `python tools/report/measure_page.py`.

Needs Chromium and playwright. Frames are what the browser's own clock says while the page scrolls by its wheel, while
the drawing is dragged, and while it is zoomed, each for some seconds; at 60 frames a second one takes 16.7 ms.
Headless Chromium draws on the processor, so that a real screen is rarely slower.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

import onnxsqueeze
from tools.measure.measure_nodes import KINDS, build
from tools.report.shoot import OPTIONS

SECONDS, STEP = 3.0, 0.02
_CLOCK = """() => {
  window.frames_ = []; let last = performance.now();
  const next = (now) => { window.frames_.push(now - last); last = now; window.on_ && requestAnimationFrame(next); };
  window.on_ = true; requestAnimationFrame(next);
}"""


@click.command()
@click.option("--nodes", type=int, multiple=True, default=(2000, 20000), show_default=True, help="Numbers of nodes.")
@click.option("--kind", type=click.Choice(list(KINDS)), default="tokens", show_default=True, help="What of.")
def main(nodes: tuple[int, ...], kind: str) -> None:
    """Print a row for each number of nodes: megabytes, seconds to open, milliseconds of a frame."""
    motions = {"scroll": _scroll, "drag": _drag, "zoom": _zoom}
    table = Table("nodes", "MB", "opens in, s", *(f"{name}, ms" for name in motions))
    with TemporaryDirectory() as folder, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        for count in nodes:
            path = Path(folder) / f"{count}.html"
            path.write_text(onnxsqueeze.minimize(build(kind, count), verify=False).page(kind), encoding="utf-8")
            tab = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
            begun = time.perf_counter()
            tab.goto(path.as_uri())
            tab.wait_for_selector("svg .block")
            opened = time.perf_counter() - begun
            frames = [_frames(tab, motion) for motion in motions.values()]
            table.add_row(f"{count:,}", f"{path.stat().st_size / 1e6:.1f}", f"{opened:.1f}", *frames)
        browser.close()
    Console(width=120).print(table)


def _frames(tab: Any, motion: Callable[[Any, int], None]) -> str:
    """Return the median frame, the 95th percentile and the longest, in milliseconds."""
    tab.evaluate(_CLOCK)
    begun = time.perf_counter()
    step = 0
    while time.perf_counter() - begun < SECONDS:
        motion(tab, step)
        step += 1
        time.sleep(STEP)
    taken = np.array(tab.evaluate("window.on_ = false, window.frames_")[1:])
    tab.mouse.up()
    return f"{np.median(taken):.0f}, {np.percentile(taken, 95):.0f}, {taken.max():.0f}"


def _scroll(tab: Any, step: int) -> None:
    tab.mouse.move(30, 500)
    tab.mouse.wheel(0, 60 if step // 40 % 2 == 0 else -60)


def _drag(tab: Any, step: int) -> None:
    if step == 0:
        _aim(tab)
        tab.mouse.down()
    box = tab.locator("svg.network").bounding_box()
    tab.mouse.move(box["x"] + 40 + step % 100, box["y"] + 300 - 3 * (step % 80))


def _zoom(tab: Any, step: int) -> None:
    if step == 0:
        _aim(tab)
        tab.keyboard.down("Control")
    tab.mouse.wheel(0, 20 if step // 20 % 2 == 0 else -20)


def _aim(tab: Any) -> None:
    tab.evaluate("scrollTo(0, 0)")
    box = tab.locator("svg.network").bounding_box()
    tab.mouse.move(box["x"] + 40, box["y"] + 300)


if __name__ == "__main__":
    main()
