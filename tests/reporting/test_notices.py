"""The licences of what is bundled into the script of the page go along with it."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def bundled() -> dict[str, tuple[str, str]]:
    """Return version and licence of each package that the script is made of, by name."""
    locked = json.loads((ROOT / "tools/report/package-lock.json").read_text(encoding="utf-8"))["packages"]
    parts = {path.removeprefix("node_modules/"): entry for path, entry in locked.items() if path}
    return {name: (entry["version"], entry["license"]) for name, entry in parts.items() if not entry.get("dev")}


def noticed() -> dict[str, tuple[str, str, str]]:
    """Return what is said of each package: version, licence, and its text."""
    text = files("onnxsqueeze.reporting.page").joinpath("NOTICES.txt").read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^----$", text.removeprefix("app.js contains these packages.\n"), flags=re.MULTILINE):
        heading, _, licence = part.strip().partition("\n")
        name, version, kind = re.fullmatch(r"(\S+) (\S+) \((\S+)\)", heading).groups()  # type: ignore[union-attr]
        found[name] = (version, kind, licence.strip())
    return found


def test_each_bundled_package_has_its_licence() -> None:
    """`build.mjs` writes them; internmap is locked for a part of d3-array that the script does not use."""
    notices, parts = noticed(), bundled()
    for name, (version, kind, licence) in notices.items():
        assert parts[name] == (version, kind), name
        assert "Copyright" in licence and "AS IS" in licence, name
    assert set(parts) - set(notices) == {"internmap"}


def test_they_are_free_to_ship() -> None:
    assert {kind for _, kind, _ in noticed().values()} <= {"MIT", "ISC", "BSD-3-Clause"}
