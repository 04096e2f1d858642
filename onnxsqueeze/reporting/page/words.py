"""Numbers as people read them, for the page and the terminal."""

from __future__ import annotations

_UNITS = ("", "k", "M", "G", "T")
_DURATIONS = ((60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def readable(count: float, unit: str = "") -> str:
    """Return a count in thousands, millions and so on, with three digits."""
    power = 0
    while abs(count) >= 999.5 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    digits = f"{count:.3g}" if power else f"{count:g}"
    return f"{digits} {_UNITS[power]}{unit}".strip()


def duration(seconds: float | None) -> str:
    """Return a time in three digits and a unit, as 1.25 ms; "" for none."""
    if seconds is None:
        return ""
    factor, unit = next((entry for entry in _DURATIONS if seconds >= entry[0]), _DURATIONS[-1])
    return f"{seconds / factor:.3g} {unit}"


def share(before: float, after: float) -> float:
    """Return which part is left, in percent; all where there was nothing."""
    return round(100 * min(1.0, after / before), 1) if before else 100.0


def times(before: float, after: float) -> str:
    """Return how many times smaller something became."""
    return f"{before / after:.2f}×" if after else "gone"
