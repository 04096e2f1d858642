"""Sizes that pages give of the models in models/ are those of today."""

from __future__ import annotations

import re

import pytest

import onnxsqueeze as sq
from onnxsqueeze.reporting.report import Report
from tests.docs.blocks import ROOT

NAMES = ("mlp", "vgg", "resnet", "dense")
CLOSE = 1e-3  # of the bytes: names of nodes that are made, versions of what writes them


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return {name: sq.minimize(ROOT / f"models/{name}.onnx", verify=False).report for name in NAMES}


def row(page: str, start: str) -> list[int]:
    """Return the whole numbers in a row of a table, without what stands in its second cell where that is text."""
    (line,) = re.findall(rf"^\| {re.escape(start)} \|(.*)\|$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    cells = [cell.strip().replace(",", "") for cell in line.split("|")]
    return [int(cell) for cell in cells if cell.isdigit()]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_the_models(name: str, reports: dict[str, Report]) -> None:
    report = reports[name]
    before, after, bytes_before, bytes_after = row("models/README.md", f"{name}.onnx")
    assert (before, after, bytes_before) == (report.weights_before, report.weights_after, report.bytes_before)
    assert bytes_after == pytest.approx(report.bytes_after, rel=CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_the_comparison(name: str, reports: dict[str, Report]) -> None:
    report = reports[name]
    numbers = row("docs/comparison.md", name)
    assert (numbers[0], numbers[2], numbers[4]) == (report.weights_before, report.weights_after, report.bytes_before)
    assert numbers[6] == pytest.approx(report.bytes_after, rel=CLOSE)
