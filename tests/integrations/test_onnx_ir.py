"""The pass in onnx-ir's own managers, among passes of onnx-ir."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

ir = pytest.importorskip("onnx_ir")

from onnx_ir.passes import PassError, PassManager  # noqa: E402
from onnx_ir.passes.common import RemoveUnusedNodesPass  # noqa: E402

from onnxsqueeze.errors import UsageError  # noqa: E402
from onnxsqueeze.integrations.onnx_ir import MinimizePass  # noqa: E402
from tests.support.perceptrons import HIDDEN, LIVE, perceptron, weights  # noqa: E402


def masked() -> onnx.ModelProto:
    first, second = weights()
    second[LIVE:] = 0
    return perceptron(first, second)


def computed(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.random.default_rng(0).normal(size=(3, 4)).astype("f4")})
    return np.asarray(found)


def test_it_is_a_step_among_others() -> None:
    wide = masked()
    given = ir.from_proto(wide)
    found = PassManager([MinimizePass(round_to=1), RemoveUnusedNodesPass()])(given)
    assert found.modified
    narrow = ir.to_proto(found.model)
    assert [list(tensor.dims) for tensor in narrow.graph.initializer] == [[4, LIVE], [LIVE], [LIVE, 5]]
    np.testing.assert_allclose(computed(narrow), computed(wide), rtol=1e-5)
    assert given.graph.initializers["w1"].shape == [4, HIDDEN], "the given model is not changed"


def test_nothing_to_do() -> None:
    found = MinimizePass()(ir.from_proto(perceptron(*weights())))
    assert not found.modified
    again = PassManager([MinimizePass(round_to=1)], steps=5)(ir.from_proto(masked()))
    assert again.modified, "though the last of its rounds changed nothing"


def test_an_error_is_one_of_the_pass() -> None:
    with pytest.raises(UsageError, match="layernorm"):
        MinimizePass(layernorm="other")(ir.from_proto(masked()))
    with pytest.raises(PassError):
        PassManager([MinimizePass(layernorm="other")])(ir.from_proto(masked()))
