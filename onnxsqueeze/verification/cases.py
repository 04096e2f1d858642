"""Find inputs on which the original runs: sizes for its dynamic dimensions, values that it accepts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxsqueeze.errors import UsageError
from onnxsqueeze.verification.difference import is_floating, leaves
from onnxsqueeze.verification.dimension_sizes import SizePlan, Sizes, batch_for
from onnxsqueeze.verification.integer_ranges import IntegerRanges
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.random_inputs import Drawer, Policy
from onnxsqueeze.verification.samples import Samples, read_samples
from onnxsqueeze.verification.sessions import RefusedError, Session, Values

_FIRST_ATTEMPTS = {Policy.FITTING: 100, Policy.POSITIVE: 20, Policy.ONES: 20}
_SECOND_ATTEMPTS = 60
_MOST_ELEMENTS = 2**21  # of all inputs together, unless the first choice has more: more would take long to try
_TOO_MANY = 2**40  # of all inputs together: terabytes


@dataclass(frozen=True)
class Request:
    """What the user asked for; the attributes are the arguments of `verify`."""

    samples: int = 2
    inputs: Samples | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """One run: inputs that the original accepts, and what it answers.

    Attributes:
        feeds: the inputs by name.
        label: the sizes or the sample, in words.
        number: of the sample, from 0; it is counted anew at each of the sizes.
        given: whether the inputs are the user's own.
        overriding: whether the feeds hold initializers too.
        expected: the original's outputs without graph optimizations.
    """

    feeds: Values
    label: str
    number: int
    given: bool
    overriding: bool
    expected: Values


@dataclass
class Cases:
    """All runs to compare, and what is to be said of them.

    Attributes:
        cases: the runs.
        sizes: the sizes of the dynamic dimensions that were drawn for.
        notes: what could not be tried.
    """

    cases: list[Case] = field(default_factory=list)
    sizes: list[Sizes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Setting:
    policy: Policy
    sizes: Sizes


class CaseFinder:
    """Looks for runs of one model."""

    def __init__(self, source: Source, session: Session, request: Request) -> None:
        """Prepare.

        Args:
            source: the original model.
            session: the original without graph optimizations.
            request: what the user asked for.

        Raises:
            UsageError: when the user named a dimension or an input that the model does not have.
        """
        self._source = source
        self._session = session
        self._request = request
        self._plan = SizePlan.of(source.inputs, request.dims, request.input_shapes)
        self._drawer = Drawer(source, IntegerRanges(source), request.seed)
        self._found = Cases()
        least = self._elements(next(self._plan.first_choices()))
        if least > _TOO_MANY:
            raise UsageError(f"cannot verify: the inputs hold {least} elements, more than any memory")
        self._most_elements = max(_MOST_ELEMENTS, 4 * least)
        self._refusal = ""  # why the first run since this was reset was refused

    def find(self) -> Cases:
        """Return runs of drawn inputs at two sizes of each dynamic dimension, and of the user's own samples.

        Raises:
            UsageError: when the original accepts no inputs that were tried, or refuses the user's own.
        """
        if self._request.inputs is not None:
            self._add_given(self._request.inputs)
        setting = self._drawable()
        if setting is not None:
            self._add_drawn(setting, 0)
            second = self._second_sizes(setting)
            if second != setting.sizes:
                self._add_drawn(_Setting(setting.policy, second), 1)
        else:
            self._found.notes.append("only your samples were run: the original refuses inputs drawn at random")
        if not self._found.cases:
            raise UsageError(
                f"cannot verify: onnxruntime runs the original on no inputs that were tried ({self._refusal})"
                f"{self._advice()}"
            )
        return self._found

    def _advice(self) -> str:
        """Say what may help: what the model has no place for does not."""
        ways = []
        if self._plan.roles or self._plan.fixed:
            ways.append("sizes with --dim NAME=SIZE or --input-shape NAME:1,3,224,224")
        if self._source.inputs:
            ways.append("samples with --inputs FILE.npz")
        return f"; give {', or '.join(ways)}" if ways else ""

    def _drawable(self) -> _Setting | None:
        """Return values and sizes to draw; of an input that cannot be drawn the user's own samples are enough."""
        try:
            return self._first_setting()
        except UsageError:
            if self._found.cases:
                return None
            raise

    def _first_setting(self) -> _Setting | None:
        """Return values and sizes that the original runs on; rather such that it answers with finite numbers."""
        fallback: _Setting | None = None
        for setting in self._settings():
            if fallback is not None and setting.sizes != fallback.sizes:
                continue  # it ran at those sizes: only other values may help
            outputs = self._try(setting, 0)
            if outputs is not None and _informative(outputs):
                return setting
            if outputs is not None:
                fallback = fallback or setting
        return fallback

    def _settings(self) -> Iterator[_Setting]:
        for policy in Policy:
            for sizes in itertools.islice(self._plan.first_choices(), _FIRST_ATTEMPTS[policy]):
                yield _Setting(policy, sizes)
            if not self._source.inputs:
                return

    def _second_sizes(self, setting: _Setting) -> Sizes:
        """Return sizes that differ from those of a setting in every free dimension that the original can vary."""
        shapes = self._plan.shapes(setting.sizes) or {}
        choices = self._plan.second_choices(setting.sizes, batch_for(shapes, self._source.weights))
        sizes, open_ = dict(setting.sizes), list(setting.sizes)
        for group, new in itertools.islice(choices, _SECOND_ATTEMPTS):
            changed = {name: new[name] for name in group if name in open_}
            if not changed:
                continue
            if self._try(_Setting(setting.policy, {**sizes, **changed}), 0) is not None:
                sizes.update(changed)
                open_ = [name for name in open_ if name not in changed]
        for name in open_:
            note = f"dimension '{name}' was tried at the size {sizes[name]} only: the original refuses others"
            self._found.notes.append(note)
        return sizes

    def _try(self, setting: _Setting, sample: int) -> Values | None:
        feeds = self._feeds(setting, 0, sample)
        return None if feeds is None else self._run(feeds)

    def _run(self, feeds: Values) -> Values | None:
        try:
            return self._session.run(feeds)
        except RefusedError as error:
            self._refusal = self._refusal or str(error)
            return None

    def _feeds(self, setting: _Setting, number: int, sample: int) -> Values | None:
        shapes = self._plan.shapes(setting.sizes)
        if shapes is None or self._elements(setting.sizes) > self._most_elements:
            return None
        return self._drawer.draw(setting.policy, shapes, (number, sample))

    def _elements(self, sizes: Sizes) -> int:
        return sum(map(math.prod, (self._plan.shapes(sizes) or {}).values()))

    def _add_drawn(self, setting: _Setting, number: int) -> None:
        known = {**self._plan.fixed, **setting.sizes}
        self._found.sizes.append(known)
        sizes = ", ".join(f"{name}={size}" for name, size in known.items())
        samples = self._request.samples if self._source.inputs or self._source.overridable else 1
        for sample in range(samples):
            label = f"sample {sample + 1} at {sizes}" if sizes else f"sample {sample + 1}"
            feeds = self._feeds(setting, number, sample)
            if feeds is not None:
                self._add(feeds, label, sample)
        if number == 0 and (overrides := self._drawer.overrides()):
            feeds = self._feeds(setting, number, samples)
            if feeds is not None:
                self._add({**feeds, **overrides}, f"{label} with other values for initializers", samples, True)

    def _add(self, feeds: Values, label: str, number: int, overriding: bool = False) -> None:
        self._refusal = ""
        expected = self._run(feeds)
        if expected is None:
            self._found.notes.append(f"{label} was left out: the original refuses it ({self._refusal})")
        else:
            self._found.cases.append(Case(feeds, label, number, False, overriding, expected))

    def _add_given(self, inputs: Samples) -> None:
        for number, feeds in enumerate(read_samples(inputs, self._source)):
            self._refusal = ""
            expected = self._run(feeds)
            if expected is None:
                raise UsageError(f"the original refuses your sample {number + 1}: {self._refusal}")
            overriding = any(value.name in feeds for value in self._source.overridable)
            self._found.cases.append(Case(feeds, f"your sample {number + 1}", number, True, overriding, expected))


def _informative(outputs: Values) -> bool:
    """Whether every floating-point output that is not empty holds a finite number."""
    arrays = [array for value in outputs.values() for array in leaves(value) if is_floating(array) and array.size]
    return all(bool(np.isfinite(array).any()) for array in arrays)
