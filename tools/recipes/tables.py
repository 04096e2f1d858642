"""Markdown tables of what the recipes found."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from tools.recipes.recipe import Outcome, Point


def within(outcomes: Sequence[Outcome], drops: Sequence[float]) -> str:
    """Return for each seed the smallest network within each drop on validation, with its test figure."""
    rows = [["network", "seed", "dense, test", *(f"within {drop * 100:g} points: ratio, test" for drop in drops), "s"]]
    for outcome in outcomes:
        cells = [outcome.name, str(outcome.seed), f"{outcome.dense_test:.2%}"]
        for drop in drops:
            point = outcome.smallest_within(drop)
            cells.append("-" if point is None else f"{point.ratio:.1f}x ({point.elements:,}), {point.test:.2%}")
        rows.append([*cells, f"{outcome.seconds:.0f}"])
    return markdown(rows)


def front(outcomes: Sequence[Outcome]) -> str:
    """Return all networks of all seeds: ratio, accuracies, and the points to dense on the test images."""
    rows = [["network", "seed", "cycle", "elements", "ratio", "validation", "test", "test, points to dense"]]
    for outcome in outcomes:
        for point in outcome.points:
            cells = [outcome.name, str(outcome.seed), str(point.cycle), f"{point.elements:,}", f"{point.ratio:.1f}x"]
            rows.append([*cells, f"{point.validation:.2%}", f"{point.test:.2%}", f"{_lost(outcome, point):+.2f}"])
    return markdown(rows)


def over_seeds(outcomes: Sequence[Outcome]) -> str:
    """Return the mean and the standard deviation over seeds of all cycles."""
    rows = [["network", "cycle", "elements", "ratio", "test, %", "test, points to dense"]]
    for name in dict.fromkeys(outcome.name for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.name == name]
        rows.append([name, "dense", f"{own[0].dense_elements:,}", "", _percent(out.dense_test for out in own), ""])
        for points, lost in zip(by_cycle(own), lost_by_cycle(own), strict=True):
            elements = f"{statistics.mean(point.elements for point in points):,.0f}"
            ratio, drop = spread([found for found, _ in lost], ".1f"), spread([found for _, found in lost], "+.2f")
            rows.append([name, str(points[0].cycle), elements, ratio, _percent(point.test for point in points), drop])
    return markdown(rows)


def _percent(shares: Iterable[float]) -> str:
    return spread([100 * share for share in shares], ".2f")


def by_cycle(outcomes: Sequence[Outcome]) -> list[list[Point]]:
    """Return the points of all seeds for each cycle, without those of the dense network."""
    return [[point for _, point in found] for found in _of_cycles(outcomes)]


def lost_by_cycle(outcomes: Sequence[Outcome]) -> list[list[tuple[float, float]]]:
    """Return for each cycle the ratio, and the points of test accuracy lost to dense, of all seeds."""
    return [[(point.ratio, _lost(outcome, point)) for outcome, point in found] for found in _of_cycles(outcomes)]


def _lost(outcome: Outcome, point: Point) -> float:
    """Return the points of test accuracy to dense; negative where the network is worse."""
    return (point.test - outcome.dense_test) * 100


def _of_cycles(outcomes: Sequence[Outcome]) -> list[list[tuple[Outcome, Point]]]:
    """Return what each cycle but the dense network's gave, with the run that it is of."""
    found = [(outcome, point) for outcome in outcomes for point in outcome.points if point.cycle]
    cycles = sorted({point.cycle for _, point in found})
    return [[(outcome, point) for outcome, point in found if point.cycle == cycle] for cycle in cycles]


def cell(points: Sequence[tuple[float, float]]) -> str:
    """Return what a table says of the seeds of one cycle."""
    ratios, lost = zip(*points, strict=True)
    return f"{spread(ratios, '.1f')}x, {spread(lost, '+.2f')}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table whose first row is the head."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def spread(values: Sequence[float], form: str) -> str:
    """Return the mean and the standard deviation over seeds."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {statistics.stdev(values):{form.removeprefix('+')}}" if len(values) > 1 else mean
