"""Take the pictures of reports that stand in docs/: `python tools/report/shoot.py --squeeze s.html --bench b.html`.

Needs Chromium and playwright. The page of models/resnet.onnx is made here; those of `squeeze` and `bench` are given.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from playwright.sync_api import sync_playwright

import onnxsqueeze

ROOT = Path(__file__).resolve().parents[2]
MODEL, LAYER = "models/resnet.onnx", "node_conv2d_4"
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PATH = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--squeeze", type=PATH, help="A page that `squeeze --report` wrote.")
@click.option("--bench", type=PATH, help="A page that `bench --report` wrote.")
def main(squeeze: Path | None, bench: Path | None) -> None:
    """Write docs/report*.png."""
    with TemporaryDirectory() as folder, sync_playwright() as started:
        page = Path(folder) / "report.html"
        text = onnxsqueeze.minimize(ROOT / MODEL).page("resnet.onnx", f"onnxsqueeze minimize {MODEL} --report")
        page.write_text(text, encoding="utf-8")
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        _shoot(browser, page, "report.png", 1280, 1040, anchor=LAYER)
        _shoot(browser, page, "report-dark.png", 1280, 1040, scheme="dark", anchor=LAYER)
        _shoot(browser, page, "report-phone.png", 390, 844)
        if squeeze is not None:
            _shoot(browser, squeeze, "report-squeeze.png", 1280, 900)
            _shoot(browser, squeeze, "report-squeeze-phone.png", 390, 844)
        if bench is not None:
            _shoot(browser, bench, "report-bench.png", 1280, 1000)
        browser.close()


def _shoot(
    browser: Any, page: Path, name: str, width: int, height: int, scheme: str = "light", anchor: str = ""
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1.5
    )
    tab = context.new_page()
    tab.goto(page.resolve().as_uri() + (f"#{anchor}" if anchor else ""))
    tab.wait_for_selector("svg .block, svg .point, .latency")
    tab.evaluate("scrollTo(0, 0)")
    tab.screenshot(path=ROOT / "docs" / name)
    context.close()


if __name__ == "__main__":
    main()
