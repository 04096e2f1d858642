"""The whole survey, and what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .cases import SUITES
from .judging import Outcome
from .masking import SHIPPED, VARIANTS
from .running import OnnxRuntime

KINDS = ("wrong", "crashed", "invalid", "signature changed", "refused", "grew", "argument changed")


@dataclass(frozen=True)
class Survey:
    """All outcomes."""

    outcomes: Sequence[Outcome]

    @property
    def failures(self) -> list[str]:
        """One line for each failure."""
        found = (outcome for outcome in self.outcomes if outcome.failure)
        return sorted(f"{outcome.failure}: {outcome.key} [{outcome.variant}]: {outcome.message}" for outcome in found)

    @property
    def compared(self) -> list[Outcome]:
        """The outcomes of cases whose outputs were compared."""
        return [outcome for outcome in self.outcomes if outcome.engine]

    def count(self, suite: str = "") -> str:
        """Say of how many cases, of one suite or of all, the outputs were compared."""
        variants = [outcome.variant for outcome in self.compared if outcome.key.startswith(suite)]
        shipped = variants.count(SHIPPED)
        return f"{shipped} cases as shipped, {len(variants) - shipped} masked"

    def summary(self) -> str:
        """Say in a line what was compared and what failed, and then how much each variant and suite has part in it."""
        failures = Counter(outcome.failure for outcome in self.outcomes)
        by_runtime = sum(outcome.engine == OnnxRuntime.__name__ for outcome in self.compared)
        lines = [
            f"backend: {self.count()}, {', '.join(f'{failures[kind]} {kind}' for kind in KINDS)}",
            f"  {by_runtime} in onnxruntime, {len(self.compared) - by_runtime} in the reference evaluator",
            *map(self._variant_line, VARIANTS),
            *(f"  {suite}: {self.count(suite)}" for suite in SUITES),
        ]
        return "\n".join(lines)

    def _variant_line(self, variant: str) -> str:
        compared = [outcome for outcome in self.compared if outcome.variant == variant]
        smaller = sum(outcome.after < outcome.before for outcome in compared)
        return f"  {variant}: {len(compared)} compared, {smaller} came back smaller"
