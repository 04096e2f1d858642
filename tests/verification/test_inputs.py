"""Which inputs are drawn, at which sizes, and what the user can say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.errors import UsageError
from onnxsqueeze.verification import verify
from tests.verification.networks import INT64, changed, network, node, nudged, perceptron, tensor

BOOL, STRING, INT32 = TensorProto.BOOL, TensorProto.STRING, TensorProto.INT32


def image_network(*dims: Any, channels: int = 3) -> onnx.ModelProto:
    """Return a convolution and a global pool, so that any image will do."""
    weight = np.random.default_rng(0).standard_normal((4, channels, 3, 3)).astype(np.float32)
    return network(
        [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("GlobalAveragePool", "c", "y")],
        [tensor("x", *dims)],
        [tensor("y", dims[0], 4, 1, 1)],
        {"w": weight},
    )


def embedding_network(rows: int = 10) -> onnx.ModelProto:
    """Return an embedding of tokens, cast and reshaped on the way to the table, and of their types."""
    random = np.random.default_rng(0)
    nodes = [
        node("Cast", "ids", "wide", to=INT64),
        node("Unsqueeze", "wide last", "apart"),
        node("Squeeze", "apart last", "flat"),
        node("Gather", "words flat", "w"),
        node("Gather", "kinds types", "k"),
        node("Add", "w k", "e"),
        node("Cast", "attention_mask", "m", to=TensorProto.FLOAT),
        node("Unsqueeze", "m last", "mm"),
        node("Mul", "e mm", "y"),
    ]
    weights = {
        "words": random.standard_normal((rows, 6)).astype(np.float32),
        "kinds": random.standard_normal((2, 6)).astype(np.float32),
        "last": np.array([2]),
    }
    inputs = [
        tensor("ids", "batch", "sequence", elem_type=INT32),
        tensor("types", "batch", "sequence", elem_type=INT64),
        tensor("attention_mask", "batch", "sequence", elem_type=INT64),
    ]
    return network(nodes, inputs, [tensor("y", "batch", "sequence", 6)], weights)


def test_each_dynamic_dimension_gets_two_sizes() -> None:
    report = verify(image_network("n", 3, "h", "w"), image_network("n", 3, "h", "w"))
    assert report.passed and report.notes == ()
    first, second = report.sizes
    assert set(first) == {"n", "h", "w"} and all(first[name] != second[name] for name in first)
    assert first["n"] == 1 and second["h"] != second["w"]


def test_unnamed_dimensions_get_two_sizes_too() -> None:
    first, second = verify(image_network(None, 3, None, 8), image_network(None, 3, None, 8)).sizes
    assert set(first) == {"x[0]", "x[2]"} and all(first[name] != second[name] for name in first)


def test_a_baked_size_is_found_and_noted() -> None:
    baked = perceptron()
    baked.graph.node.extend([node("Reshape", "y shape", "z"), node("Reshape", "z back", "out")])
    baked.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 2]), "shape"))
    baked.graph.initializer.append(numpy_helper.from_array(np.array([1, 4]), "back"))
    baked.graph.output[0].CopyFrom(tensor("out", "batch", 4))
    report = verify(baked, baked)
    assert report.passed and report.sizes == ({"batch": 1},)
    assert report.notes == ("dimension 'batch' was tried at the size 1 only: the original refuses others",)


def test_a_size_that_the_model_needs_is_found() -> None:
    weight = np.random.default_rng(0).standard_normal((4 * 28 * 28, 5)).astype(np.float32)
    model = image_network("n", 3, "h", "w")
    del model.graph.node[-1]
    model.graph.node.extend([node("Flatten", "c", "f"), node("MatMul", "f v", "y")])
    model.graph.initializer.append(numpy_helper.from_array(weight, "v"))
    model.graph.output[0].CopyFrom(tensor("y", "n", 5))
    report = verify(model, model)
    assert report.passed, report.reason
    assert report.sizes[0] == {"n": 1, "h": 28, "w": 28} and report.sizes[1]["n"] > 1
    assert len(report.notes) == 2


def test_only_the_minimized_model_fails_at_a_size() -> None:
    baked = perceptron()
    baked.graph.node[-1].CopyFrom(node("Gemm", "r2 w3 b3", "z"))
    baked.graph.node.append(node("Reshape", "z shape", "y"))
    baked.graph.initializer.append(numpy_helper.from_array(np.array([1, 4]), "shape"))
    report = verify(perceptron(), baked)
    assert not report.passed
    assert "onnxruntime runs the original on sample 1 at batch=33 but not the minimized model" in report.reason


def test_expressions_of_dimensions() -> None:
    model = network(
        [node("Concat", "past new", "all", axis=1), node("Mul", "all mask", "y")],
        [tensor("past", "batch", "past_length"), tensor("new", "batch", "length"),
         tensor("mask", "batch", "past_length + length")],
        [tensor("y", "batch", "total")],
    )  # fmt: skip
    report = verify(model, model, dims={"past_length": 3})
    assert report.passed and report.notes == ()
    assert all(sizes["past_length"] == 3 and set(sizes) == {"batch", "past_length", "length"} for sizes in report.sizes)


def test_dims_and_shapes_override() -> None:
    model = image_network("n", 3, "h", "w")
    assert verify(model, model, dims={"h": 20, "w": 24, "n": 2}).sizes == ({"h": 20, "w": 24, "n": 2},)
    assert verify(model, model, input_shapes={"x": (2, 3, 10, 12)}).sizes == ({"n": 2, "h": 10, "w": 12},)
    partly = verify(model, model, dims={"h": 20}).sizes
    assert [sizes["h"] for sizes in partly] == [20, 20] and partly[0]["w"] != partly[1]["w"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dims": {"z": 3}}, "no dynamic dimension 'z'; it has 'n', 'h', 'w'"),
        ({"dims": {"h": 0}}, "dimension 'h' cannot have the size 0"),
        ({"input_shapes": {"z": (1,)}}, "no input 'z'; it has 'x'"),
        ({"input_shapes": {"x": (1, 3)}}, "must have 4 dimensions"),
        ({"input_shapes": {"x": (1, 4, 8, 8)}}, "has the size 3 at axis 1, not 4"),
        ({"dims": {"h": 4}, "input_shapes": {"x": (1, 3, 8, 8)}}, "dimension 'h' cannot have the size 8"),
    ],
)
def test_wrong_sizes_are_refused(options: dict[str, Any], reason: str) -> None:
    model = image_network("n", 3, "h", "w")
    with pytest.raises(UsageError, match=reason):
        verify(model, model, **options)


def test_no_size_works() -> None:
    unknown = image_network("n", "c", "h", "w", channels=7)
    with pytest.raises(UsageError, match=r"runs the original on no inputs.*--dim NAME=SIZE or --input-shape"):
        verify(unknown, unknown)
    assert verify(unknown, unknown, dims={"c": 7}).passed


def test_token_ids_stay_within_their_tables() -> None:
    report = verify(embedding_network(), embedding_network())
    assert report.passed and report.notes == ()


@pytest.mark.parametrize("row", [0, 9])
def test_token_ids_reach_all_rows(row: int) -> None:
    report = verify(embedding_network(), nudged(embedding_network(), "words", 1.0, row, 0))
    assert not report.passed and report.first_deviating == "node_w (Gather)"


def test_a_table_behind_a_dequantization() -> None:
    model = network(
        [node("DequantizeLinear", "q scale", "table"), node("Gather", "table ids", "y")],
        [tensor("ids", "n", elem_type=INT64)], [tensor("y", "n", 4)],
        {"q": np.arange(12, dtype=np.int8).reshape(3, 4), "scale": np.array(0.5, np.float32)},
    )  # fmt: skip
    assert verify(model, model).passed
    assert not verify(model, nudged(model, "q", 40, 2, 0)).passed


def test_integers_that_steer_an_operator() -> None:
    model = network(
        [node("TopK", "x k", "top at", axis=1), node("ReduceSum", "top", "y", keepdims=0)],
        [tensor("x", 3, 5), tensor("k", 1, elem_type=INT64)],
        [tensor("y")],
    )
    assert verify(model, model).passed


def test_booleans_and_conditions() -> None:
    model = network(
        [node("Where", "keep x w", "y")], [tensor("x", 4, 6), tensor("keep", 4, 6, elem_type=BOOL)],
        [tensor("y", 4, 6)], {"w": np.ones(6, np.float32)},
    )  # fmt: skip
    assert verify(model, model).passed
    assert not verify(model, nudged(model, "w", 1e-2, 3)).passed
    swapped = onnx.ModelProto()
    swapped.CopyFrom(model)
    swapped.graph.node[0].input[1:] = ["w", "x"]
    assert not verify(model, swapped).passed


def test_strings() -> None:
    model = network(
        [node("StringConcat", "x w", "y")], [tensor("x", "n", elem_type=STRING)],
        [tensor("y", "n", elem_type=STRING)], {"w": np.array(["!"], dtype=object)}, opset=20, ir_version=9,
    )  # fmt: skip
    assert verify(model, model).passed
    report = verify(model, changed(model, "w", np.array(["?"], dtype=object)))
    assert not report.passed and "which must be equal" in report.reason


def test_sequences_and_optionals() -> None:
    elements = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3])
    sequence = helper.make_sequence_type_proto(elements)
    optional = helper.make_optional_type_proto(elements)
    model = network(
        [node("SequenceAt", "xs last", "at"), node("OptionalGetElement", "o", "g"), node("Add", "at w", "s"),
         node("SequenceInsert", "xs s", "ys"), node("Add", "g s", "y")],
        [helper.make_value_info("xs", sequence), helper.make_value_info("o", optional)],
        [helper.make_value_info("ys", sequence), tensor("y", "n", 3)],
        {"last": np.array(-1), "w": np.ones(3, np.float32)}, opset=18,
    )  # fmt: skip
    report = verify(model, model)
    assert report.passed, report.reason
    report = verify(model, nudged(model, "w", 1e-2, 1))
    assert not report.passed and report.first_deviating == "node_s (Add)"


def test_a_type_that_cannot_be_drawn() -> None:
    model = network(
        [node("Cast", "x", "y", to=TensorProto.FLOAT)],
        [tensor("x", 4, elem_type=TensorProto.FLOAT8E4M3FN)], [tensor("y", 4)], opset=19, ir_version=9,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"cannot verify: input 'x' is float8e4m3fn\[4\], for which no values can"):
        verify(model, model)


def test_advice_is_what_can_help() -> None:
    """A model without inputs has no place for samples or sizes, and one of fixed sizes none for sizes."""
    shape = np.array([3])  # which 4 numbers do not fit
    fixed = network([node("Reshape", "x s", "y")], [tensor("x", 4)], [tensor("y", None)], {"s": shape})
    with pytest.raises(UsageError, match="on no inputs") as error:
        verify(fixed, fixed)
    assert "--inputs" in str(error.value) and "--dim" not in str(error.value)
    closed = network([node("Reshape", "w s", "y")], [], [tensor("y", None)], {"s": shape, "w": np.zeros(4, np.float32)})
    with pytest.raises(UsageError, match="on no inputs") as error:
        verify(closed, closed)
    assert "--" not in str(error.value)
    nan = network([node("Log", "w", "y")], [], [tensor("y", 2)], {"w": np.float32([-1, -2])})
    report = verify(nan, nan)
    assert not report.passed and "NaN or Inf throughout" in report.reason and "--" not in report.reason


def test_a_model_without_inputs_runs_once() -> None:
    model = network([node("Relu", "w", "y")], [], [tensor("y", 5)], {"w": np.arange(5, dtype=np.float32)})
    report = verify(model, model)
    assert report.passed and report.runs == 3  # optimizations off, on, and float64
    assert not verify(model, nudged(model, "w", 1e-2, 4)).passed


def overridable(ir_version: int) -> onnx.ModelProto:
    model = perceptron()
    model.ir_version = ir_version
    model.graph.input.extend(tensor(stored.name, *stored.dims) for stored in model.graph.initializer)
    return model


@pytest.mark.parametrize("ir_version", [3, 8])
def test_initializers_that_are_inputs_need_not_be_fed(ir_version: int) -> None:
    model = overridable(ir_version)
    model.opset_import[0].version = 8 if ir_version == 3 else 17
    assert verify(model, model).passed


def test_initializers_that_are_inputs_are_overridden() -> None:
    folded = overridable(8)
    folded.graph.node[1].op_type = "Add"
    folded.graph.node[1].input.append("constant")
    folded.graph.initializer.append(numpy_helper.from_array(np.zeros(16, np.float32), "constant"))
    plain = overridable(8)
    plain.graph.node[1].op_type = "Identity"
    assert verify(plain, folded).passed
    doubled = overridable(8)  # right for the stored bias alone
    doubled.graph.node[1].op_type = "Add"
    doubled.graph.node[1].input.append("b1")
    original = changed(plain, "b1", np.zeros(16, np.float32))
    wrong = changed(doubled, "b1", np.zeros(16, np.float32))
    assert verify(original, wrong).passed  # 0 stays 0 when it is scaled
    half = changed(plain, "b1", lambda b: 2 * b)
    report = verify(half, changed(doubled, "b1", lambda b: b))
    assert not report.passed


def samples(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_own_samples_are_run_besides(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((7, 8)).astype(np.float32)
    drawn, own = verify(perceptron(), perceptron()), verify(perceptron(), perceptron(), inputs={"x": x})
    assert own.passed and own.runs == drawn.runs + 3  # one sample: off, on, float64
    path = samples(tmp_path / "s.npz", x=x.astype(np.float64))
    assert verify(perceptron(), perceptron(), inputs=path).runs == own.runs


def test_own_samples_find_what_drawn_ones_do_not() -> None:
    rare = network(
        [node("MatMul", "x w", "h"), node("Sub", "h far", "d"), node("Relu", "d", "y")], [tensor("x", "n", 2)],
        [tensor("y", "n", 1)], {"w": np.ones((2, 1), np.float32), "far": np.array(1000, np.float32)},
    )  # fmt: skip
    x = np.full((1, 2), 1000, np.float32)
    wrong = changed(rare, "far", np.array(900, np.float32))
    assert verify(rare, wrong).passed
    report = verify(rare, wrong, inputs={"x": x})
    assert not report.passed and "your sample 1" in report.reason


@pytest.mark.parametrize(("shape", "runs"), [((6, 2, 8), 6), ((6, 8), 3), ((2, 8), 1)])
def test_own_samples_may_be_many(shape: tuple[int, ...], runs: int) -> None:
    fixed = perceptron(batch=2)
    one = verify(fixed, fixed).runs
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    assert verify(fixed, fixed, inputs={"x": x}).runs == one + 3 * runs


def test_wrong_samples_are_refused(tmp_path: Path) -> None:
    x = np.zeros((1, 8), np.float32)
    (tmp_path / "text.npz").write_text("no samples")
    np.save(tmp_path / "one.npy", x)
    cases: list[tuple[Any, str]] = [
        ({"z": x}, "name 'z', which is no input of the model; it has 'x'"),
        ({}, "lack the input 'x'"),
        ({"x": np.array([["a"] * 8])}, "is <U1, but the model takes float32"),
        ({"x": np.zeros((1, 9), np.float32)}, "refuses your sample 1"),
        (tmp_path / "missing.npz", "missing.npz: the samples cannot be read: No such file or directory"),
        (tmp_path / "text.npz", "text.npz: the samples cannot be read"),
        (tmp_path / "one.npy", "one.npy: samples must be an npz file"),
    ]
    for given, reason in cases:
        with pytest.raises(UsageError, match=reason):
            verify(perceptron(), perceptron(), inputs=given)


def test_own_samples_alone_where_no_others_work() -> None:
    unknown = image_network("n", "c", "h", "w", channels=7)
    x = np.random.default_rng(0).standard_normal((1, 7, 5, 5)).astype(np.float32)
    report = verify(unknown, unknown, inputs={"x": x})
    assert report.passed and report.notes == (
        "only your samples were run: the original refuses inputs drawn at random",
    )


def test_equal_seeds_give_equal_reports() -> None:
    wrong = nudged(perceptron(), "b2", 1e-7, 0)
    deviations = [verify(perceptron(), wrong, seed=seed).deviation for seed in (0, 0, 1)]
    assert deviations[0] == deviations[1] != deviations[2]


def test_a_model_for_large_images_is_run_at_its_size() -> None:
    report = verify(image_network("n", 3, 1024, 1024), image_network("n", 3, 1024, 1024), samples=1)
    assert report.passed and report.sizes == ({"n": 1}, {"n": 3})


def test_why_a_sample_was_left_out_is_noted() -> None:
    picky = network(
        [node("ReduceMax", "x", "m", keepdims=0), node("Cast", "m", "n", to=INT64), node("Unsqueeze", "n axis", "k"),
         node("Add", "k k", "k2"), node("TopK", "x k2", "y at", axis=0)],
        [tensor("x", 3)], [tensor("y", "k")], {"axis": np.array([0])},
    )  # fmt: skip
    report = verify(picky, picky, samples=12)
    assert report.passed
    assert any("was left out: the original refuses it (" in note and "TopK" in note for note in report.notes)
