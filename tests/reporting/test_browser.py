"""The page in a real browser: drawn without errors, used by mouse and keyboard, accessible, and quick."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import onnxsqueeze as sq
from onnxsqueeze.reporting.page.content import Content, FrontPart, FrontPoint
from onnxsqueeze.reporting.page.render import render
from tests.reporting.test_page import RESNET, attention, chain

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
SIZES = {"desktop": (1360, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield opened
        opened.close()


class Visit:
    """A page that was opened from a file, and what the browser complained of."""

    def __init__(self, browser: Any, text: str, folder: Path, size: str = "desktop", scheme: str = "light") -> None:
        path = folder / "page.html"
        path.write_text(text, encoding="utf-8")
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request", lambda asked: None if asked.url.startswith("file:") else self.complaints.append(asked.url)
        )
        started = time.perf_counter()
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("svg .block, svg .point")
        self.seconds = time.perf_counter() - started

    def serious(self) -> list[str]:
        """Return what a screen reader's user would stumble over, by axe-core."""
        self.page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run()")["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]


def minimized(model: Any) -> str:
    return sq.minimize(model, verify=False).page("a model")


def front() -> str:
    points = [
        FrontPoint("big", 2.0, 0.99, taken=[("conv", "channels", 8, 4)]),
        FrontPoint("small", 4.0, 0.95, chosen=True, taken=[("conv", "channels", 8, 2)]),
    ]
    return render(Content("front", "", "command", front=FrontPart(points, "times smaller", "accuracy", dense=1.0)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("made", [lambda: minimized(RESNET), lambda: minimized(attention()), front])
def test_pages_are_whole_and_accessible(browser: Any, tmp_path: Path, made: Any, size: str, scheme: str) -> None:
    visit = Visit(browser, made(), tmp_path, size, scheme)
    assert not visit.complaints
    assert not visit.page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert visit.serious() == []


def test_a_click_shows_a_layer_and_its_mask(browser: Any, tmp_path: Path) -> None:
    page = Visit(browser, minimized(RESNET), tmp_path).page
    page.get_by_role("button", name="Conv node_conv2d_2, 32 channels").click()
    details = page.locator(".details")
    assert "node_conv2d_2" in details.inner_text() and "9,216 → 5,040" in details.inner_text()
    assert "of which" in (details.locator("canvas").get_attribute("aria-label") or "")
    page.get_by_label("Close the details").click()
    assert "Where the weights went" in details.inner_text()


def test_the_keyboard_goes_from_block_to_block(browser: Any, tmp_path: Path) -> None:
    page = Visit(browser, minimized(RESNET), tmp_path).page
    assert page.locator("svg.network .block[tabindex='0']").count() == 1
    page.locator("svg.network .block[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "node_conv2d" in page.locator(".details h3").inner_text()


def test_search_marks_and_counts(browser: Any, tmp_path: Path) -> None:
    page = Visit(browser, minimized(RESNET), tmp_path).page
    page.get_by_label("Search").fill("gemm")
    assert page.locator(".hits").inner_text() == "1 found"
    assert page.locator(".block.found").count() == 1
    assert page.locator(".layers tbody tr:visible").count() == 1


def test_zoom_changes_the_scale(browser: Any, tmp_path: Path) -> None:
    page = Visit(browser, minimized(RESNET), tmp_path).page

    drawn = "document.querySelector('svg.network > g').transform.baseVal.consolidate().matrix.a"
    before = page.evaluate(drawn)
    page.get_by_label("Zoom in").click()
    assert page.evaluate(drawn) == pytest.approx(1.4 * before)


def test_a_link_opens_a_layer(browser: Any, tmp_path: Path) -> None:
    page = Visit(browser, minimized(RESNET), tmp_path).page
    page.evaluate("location.hash = 'node_conv2d_6'")
    page.wait_for_function("document.querySelector('.details h3').textContent === 'node_conv2d_6'")


def test_a_point_shows_what_it_takes(browser: Any, tmp_path: Path) -> None:
    page = Visit(browser, front(), tmp_path).page
    assert "8 → 2" in page.locator(".details").inner_text()
    page.get_by_role("button", name="big: 2.00 times smaller").click()
    assert "8 → 4" in page.locator(".details").inner_text()


def test_a_large_network_is_in_groups_that_open(browser: Any, tmp_path: Path) -> None:
    """1,502 blocks: fewer than 200 are drawn, and a search opens the group in which it finds something."""
    visit = Visit(browser, minimized(chain(500)), tmp_path)
    assert not visit.complaints and visit.seconds < 30  # the figure itself is measured, not tested
    assert visit.page.locator(".block").count() < 200
    visit.page.get_by_label("Search").fill("/block.250/up")
    assert "/block.250/up" in (visit.page.locator(".block.found").first.get_attribute("aria-label") or "")


def test_on_paper_the_whole_network_is_drawn(browser: Any, tmp_path: Path) -> None:
    page = Visit(browser, minimized(RESNET), tmp_path, scheme="dark").page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("svg.network").get_attribute("viewBox")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
