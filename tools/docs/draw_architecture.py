"""Draw docs/layers.svg: the packages in their layers, and the way of a model through them.

python tools/docs/draw_architecture.py         # writes the file
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import click
from jinja2 import Template

import onnxsqueeze

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs/layers.svg"
WAY = (
    "model",
    "canonicalization",
    "analysis",
    "planning",
    "rewriting",
    "pipeline",
    "verification",
    "model",
    "reporting",
)
"""The packages that a model passes, in the order of the steps on docs/architecture.md."""

_LINE = re.compile(r"^ +(\d+) {2}(\w+(?:, \w+)*)$", re.MULTILINE)
_LETTER, _GAP, _HEIGHT, _STEP, _LEFT, _TOP = 8.0, 14, 30, 46, 44, 12

_SVG = Template(
    """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img" \
aria-label="The packages in their layers, and the way of a model through them" \
font-family="system-ui, sans-serif" font-size="14">
<style>
  svg { --paper: #fff; --ink: #222; --soft: #667; --box: #eef1f7; --edge: #b6bfd2; --way: #3f51b5; --on: #fff; }
  @media (prefers-color-scheme: dark) { svg {
    --paper: #1e2129; --ink: #e6e8ee; --soft: #a3a9b8; --box: #2b303c; --edge: #4b5366; --way: #9fa8da; --on: #111;
  } }
  .paper { fill: var(--paper); } text { fill: var(--ink); } .soft { fill: var(--soft); }
  .box { fill: var(--box); stroke: var(--edge); }
  .way { fill: none; stroke: var(--way); stroke-width: 2; opacity: .55; }
  .badge { fill: var(--way); } .number { fill: var(--on); font-size: 11px; font-weight: 600; text-anchor: middle; }
</style>
<rect class="paper" width="{{ width }}" height="{{ height }}" rx="6"/>
{%- for layer, y in rows %}
<text class="soft" x="30" y="{{ y + 20 }}" text-anchor="end">{{ layer }}</text>
{%- endfor %}
{%- for x1, y1, x2, y2 in legs %}
<path class="way" d="M{{ x1 }} {{ y1 }} \
C{{ x1 + 34 }} {{ (y1 + y2) / 2 }} {{ x2 + 34 }} {{ (y1 + y2) / 2 }} {{ x2 }} {{ y2 }}"/>
{%- endfor %}
{%- for name, x, y, w in boxes %}
<rect class="box" x="{{ x }}" y="{{ y }}" width="{{ w }}" height="{{ box }}" rx="4"/>\
<text x="{{ x + 12 }}" y="{{ y + 20 }}">{{ name }}</text>
{%- endfor %}
{%- for number, x, y in badges %}
<circle class="badge" cx="{{ x }}" cy="{{ y }}" r="9"/>\
<text class="number" x="{{ x }}" y="{{ y + 4 }}">{{ number }}</text>
{%- endfor %}
</svg>
"""
)


def table(text: str) -> dict[str, int]:
    """Return the layer of each package, as a table in a text says."""
    return {name: int(layer) for layer, names in _LINE.findall(text) for name in names.split(", ")}


def picture() -> str:
    """Return the text of docs/layers.svg."""
    layers = {name: layer for name, layer in table(str(onnxsqueeze.__doc__)).items() if name != "_version"}
    order = sorted(set(layers.values()), reverse=True)
    rows = {layer: _TOP + _STEP * place for place, layer in enumerate(order)}
    boxes: dict[str, tuple[float, int, float]] = {}
    for layer in order:
        x = float(_LEFT)
        for name in sorted((name for name, own in layers.items() if own == layer), key=_first_pass):
            boxes[name] = (x, rows[layer], _width(name))
            x += _width(name) + _GAP
    places = [(number, *_badge(boxes, number, name)) for number, name in enumerate(WAY, 1)]
    return _SVG.render(
        width=_LEFT + max(x + width for x, _, width in boxes.values()),
        height=_TOP + _STEP * len(order),
        box=_HEIGHT,
        rows=rows.items(),
        boxes=[(name, *box) for name, box in boxes.items()],
        badges=places,
        legs=[(*first[1:], *second[1:]) for first, second in pairwise(places)],
    )


def _first_pass(name: str) -> int:
    return WAY.index(name) if name in WAY else len(WAY)


def _width(name: str) -> float:
    """Return how wide a box is: its name, and room for the numbers of steps."""
    return 24 + _LETTER * len(name) + 24 * WAY.count(name)


def _badge(boxes: dict[str, tuple[float, int, float]], number: int, name: str) -> tuple[float, float]:
    x, y, width = boxes[name]
    later = WAY[number:].count(name)
    return x + width - 14 - 24 * later, y + _HEIGHT / 2


@click.command()
def main() -> None:
    """Write docs/layers.svg."""
    PICTURE.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
