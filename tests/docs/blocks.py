"""The blocks of code of all pages: what language each is in, and whether it runs, or why it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = ("sh", "python")
"""Languages of blocks that run, one after the other as a reader would type them."""

OTHERS = ("js", "html", "yaml")
"""Languages of blocks that only a mark can explain: another test runs them, or nothing can."""

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_MARK = re.compile(r"<!-- (?P<kind>not run|run by): (?P<words>[^>]+) -->\n$")


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, its text, and a mark in the page's source where there is one.

    ``kind`` is "not run", with the reason in ``words``; "run by", with the path of the test that does; or "".
    """

    page: str
    line: int
    language: str
    text: str
    kind: str = ""
    words: str = ""

    @property
    def runs(self) -> bool:
        """Whether it is typed, where no mark says otherwise."""
        return not self.kind and self.language in RUN

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, without comments at their ends; continued lines are one."""
        joined = self.text.replace("\\\n", " ")
        return [re.sub(r"\s+# .*$", "", line) for line in joined.splitlines() if line and not line.startswith("#")]


def pages() -> list[str]:
    """Return all pages that people read, as paths from the root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("models/*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("\n```") + text.startswith("```") == 2 * len(_FENCE.findall(text)), f"{page}: an open fence"
    return list(_blocks(page, text))


def _blocks(page: str, text: str) -> Iterator[Block]:
    for found in _FENCE.finditer(text):
        mark = _MARK.search(text, 0, found.start())
        kind, words = (mark["kind"], mark["words"]) if mark else ("", "")
        yield Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"], kind, words)
