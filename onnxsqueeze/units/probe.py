"""An analysis of a dense network in which something could go.

Some decisions of the analysis rest on values: where nothing is constant, the channels of a token stream that is
written in several places are not told apart. So a probe is analysed: the same graph, the first position of each
axis of each weight set to zero, which makes the first channel of every stream a constant 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.floating import is_floating
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.model.compensated_function import with_definition
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.pipeline.frontend import analyse


def probed(model: Model) -> Analysis:
    """Analyse a model whose first channels are zero. Only classes and constraints of the result are of use."""
    model = with_definition(model)
    initializers = {name: _probe(initializer) for name, initializer in model.initializers.items()}
    return analyse(replace(model, initializers=initializers))


def _probe(initializer: Initializer) -> Initializer:
    if not initializer.is_numeric or not is_floating(initializer.dtype) or initializer.size < 2:
        return initializer
    return initializer.with_array(_without_first(initializer.array))


def _without_first(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Zero the first position along each axis that has several, unless the tensor holds no ordinary weights."""
    if not np.isfinite(array.astype(np.float32)).all():
        return array
    array = array.copy()
    for axis, length in enumerate(array.shape):
        if length > 1:
            array[(slice(None),) * axis + (slice(0, 1),)] = 0
    return array
