"""Everything in a model survives loading and saving, one feature at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.model.saving import encoded_size, save
from tests.support.sample_models import floats, linear_model, separated

ROWS = 3


def with_model_metadata() -> ModelProto:
    model = linear_model()
    helper.set_model_props(model, {"author": "somebody", "classes": "a,b,c"})
    return model


def with_graph_metadata() -> ModelProto:
    model = linear_model()
    model.graph.metadata_props.add(key="source", value="training run 7")
    return model


def with_node_metadata() -> ModelProto:
    model = linear_model()
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="line 3")
    return model


def with_tensor_metadata() -> ModelProto:
    model = linear_model()
    model.graph.initializer[0].metadata_props.add(key="mask", value="magnitude")
    return model


def with_doc_strings() -> ModelProto:
    model = linear_model(doc_string="the model")
    model.graph.doc_string = "the graph"
    model.graph.node[0].doc_string = "the node"
    model.graph.input[0].doc_string = "the input"
    model.graph.initializer[0].doc_string = "the weight"
    return model


def with_doc_string_that_is_not_utf8() -> ModelProto:
    encoded = linear_model(doc_string="Gr???e").SerializeToString()
    return ModelProto.FromString(encoded.replace(b"???", b"\xf6\xdf "))


def with_origin() -> ModelProto:
    return linear_model(
        domain="org.example", model_version=12, producer_name="trainer", producer_version="3.1", doc_string="x"
    )


def with_denotations() -> ModelProto:
    model = linear_model()
    model.graph.input[0].type.denotation = "TENSOR"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    return model


def with_quantization_annotation() -> ModelProto:
    model = linear_model()
    annotation = model.graph.quantization_annotation.add(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="y_scale")
    return model


def with_initializer_that_is_an_input() -> ModelProto:
    model = linear_model()
    model.graph.input.append(floats("w", 2, 3))
    return model


def with_ir_version_3() -> ModelProto:
    model = with_initializer_that_is_an_input()
    model.ir_version = 3
    return model


def with_device_configurations() -> ModelProto:
    model = linear_model(ir_version=11)
    model.configuration.add(name="two", num_devices=2, device=["cpu:0", "cpu:1"])
    sharding = model.graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)
    sharding.sharding_spec.add(tensor_name="w", device=[0, 1])
    return model


def sparse_tensor(name: str) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([1.5, -2.0], np.float32), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 4]), f"{name}_indices"), [2, 3])


def with_sparse_initializer() -> ModelProto:
    model = linear_model()
    model.graph.sparse_initializer.append(sparse_tensor("sparse"))
    return model


def with_sparse_constant() -> ModelProto:
    return linear_model(nodes=(helper.make_node("Constant", [], ["c"], sparse_value=sparse_tensor("")),))


def with_functions() -> ModelProto:
    body = helper.make_node("LeakyRelu", ["a"], ["b"], doc_string="inside")
    body.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    opsets = [helper.make_opsetid("", 21)]
    function = helper.make_function("local", "Activate", ["a"], ["b"], [body], opsets, attributes=["slope"])
    function.doc_string = "a function"
    function.metadata_props.add(key="k", value="v")
    model = linear_model(nodes=(helper.make_node("Activate", ["x"], ["z"], domain="local", slope=0.5),))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def with_training_info() -> ModelProto:
    model = linear_model()
    training = model.training_info.add()
    training.algorithm.name = "step"
    training.algorithm.initializer.append(numpy_helper.from_array(np.array([0.1], np.float32), "rate"))
    training.initialization_binding.add(key="w", value="w0")
    return model


def with_if() -> ModelProto:
    def branch(name: str, value: float) -> onnx.GraphProto:
        tensor = numpy_helper.from_array(np.array([value], np.float32), f"{name}_value")
        node = helper.make_node("Add", ["x", f"{name}_value"], [f"{name}_out"])
        return helper.make_graph([node], name, [], [floats(f"{name}_out", "batch", 2)], [tensor], doc_string=name)

    node = helper.make_node("If", ["flag"], ["z"], then_branch=branch("yes", 1.0), else_branch=branch("no", 2.0))
    return linear_model(numpy_helper.from_array(np.array(True), "flag"), nodes=(node,))


def with_loop() -> ModelProto:
    iteration = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    proceed = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    proceed_out = helper.make_tensor_value_info("go_out", TensorProto.BOOL, [])
    nodes = [helper.make_node("Identity", ["go"], ["go_out"]), helper.make_node("Add", ["s", "step"], ["s_out"])]
    step = numpy_helper.from_array(np.array([1], np.float32), "step")
    body = helper.make_graph(
        nodes, "body", [iteration, proceed, floats("s", 1)], [proceed_out, floats("s_out", 1)], [step]
    )
    count = numpy_helper.from_array(np.array(4), "count")
    start = numpy_helper.from_array(np.array([0], np.float32), "start")
    return linear_model(count, start, nodes=(helper.make_node("Loop", ["count", "", "start"], ["z"], body=body),))


def with_value_info() -> ModelProto:
    model = linear_model()
    model.graph.value_info.append(floats("hidden", "batch", "64*batch", 3))
    return model


def with_strings() -> ModelProto:
    return linear_model(helper.make_tensor("words", TensorProto.STRING, [2], [b"caf\xc3\xa9", b"\xff raw"]))


def with_custom_operators() -> ModelProto:
    node: NodeProto = helper.make_node("FusedThing", ["x"], ["z"], domain="com.microsoft", name="fused", weights=[1.0])
    model = linear_model(nodes=(node,))
    model.opset_import.extend([helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("org.unheard.of", 1000)])
    return model


def with_other_types() -> ModelProto:
    model = linear_model()
    elements = helper.make_tensor_type_proto(TensorProto.FLOAT, [None, 2])
    for name, kind in (
        ("sequence", helper.make_sequence_type_proto(elements)),
        ("optional", helper.make_optional_type_proto(elements)),
        ("map", helper.make_map_type_proto(TensorProto.STRING, elements)),
    ):
        model.graph.input.append(helper.make_value_info(name, kind))
    return model


def with_explicit_data_location() -> ModelProto:
    model = linear_model()
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    return model


def with_field_of_a_newer_onnx() -> ModelProto:
    model = linear_model()
    unknown = b"\xaa\x3f\x03new"  # field 1013, three bytes long
    model.graph.initializer[0].MergeFromString(unknown)
    model.graph.MergeFromString(unknown)
    model.MergeFromString(unknown)
    return model


def without_initializers() -> ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"])
    return helper.make_model(helper.make_graph([node], "bare", [floats("x", "n")], [floats("y", "n")]))


def with_nothing_but_a_passage() -> ModelProto:
    return helper.make_model(helper.make_graph([], "passage", [floats("x", "n")], [floats("x", "n")]))


FEATURES: list[Callable[[], ModelProto]] = [
    with_model_metadata,
    with_graph_metadata,
    with_node_metadata,
    with_tensor_metadata,
    with_doc_strings,
    with_doc_string_that_is_not_utf8,
    with_origin,
    with_denotations,
    with_quantization_annotation,
    with_initializer_that_is_an_input,
    with_ir_version_3,
    with_device_configurations,
    with_sparse_initializer,
    with_sparse_constant,
    with_functions,
    with_training_info,
    with_if,
    with_loop,
    with_value_info,
    with_strings,
    with_custom_operators,
    with_other_types,
    with_explicit_data_location,
    with_field_of_a_newer_onnx,
    without_initializers,
    with_nothing_but_a_passage,
]


def assert_survives(original: ModelProto, folder: Path) -> None:
    """Pass a model through files and through memory; it stays the same, and the argument too."""
    encoded = original.SerializeToString()
    source, from_file, from_memory = folder / "source.onnx", folder / "file.onnx", folder / "memory.onnx"
    source.write_bytes(encoded)
    model = load(source)
    assert save(model, from_file) == from_file.stat().st_size == encoded_size(model)
    save(load(original), from_memory)
    for result in (onnx.load(from_file), onnx.load(from_memory), to_proto(model), to_proto(load(original))):
        assert separated(result) == separated(original)
        onnx.checker.check_model(result, full_check=True)
    assert original.SerializeToString() == encoded


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.__name__)
def test_feature_survives(feature: Callable[[], ModelProto], tmp_path: Path) -> None:
    model = feature()
    assert separated(model) != separated(linear_model())
    assert_survives(model, tmp_path)


@pytest.mark.parametrize("data_type", [value for value in TensorProto.DataType.values() if value], ids=str)
def test_element_type_survives(data_type: int, tmp_path: Path) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    values = np.array([["a", "b", "c"]], object) if dtype.hasobject else np.ones((1, 3)).astype(dtype)
    scalar = np.array("a", object) if dtype.hasobject else np.ones(()).astype(dtype)
    empty = np.empty((0, 3), dtype)
    tensors = [numpy_helper.from_array(array, name) for name, array in zip("abc", (values, scalar, empty), strict=True)]
    model = linear_model(*tensors, ir_version=onnx.IR_VERSION)
    assert_survives(model, tmp_path)
    loaded = load(model).initializers
    for name, array in zip("abc", (values, scalar, empty), strict=True):
        assert loaded[name].dtype == dtype
        assert loaded[name].shape == array.shape
        assert np.array_equal(loaded[name].array, array)


@pytest.mark.parametrize("data_type", [value for value in TensorProto.DataType.values() if value], ids=str)
def test_data_outside_raw_data_survives(data_type: int, tmp_path: Path) -> None:
    """Large and small tensors with their values in float_data, int32_data and so on, whichever fits the type."""
    string = data_type == TensorProto.STRING
    small = helper.make_tensor("small", data_type, [ROWS], ["a", "b", "c"] if string else [0, 1, 1])
    large = helper.make_tensor("large", data_type, [3000], ["abc"] * 3000 if string else [0, 1, 1] * 1000)
    assert not small.HasField("raw_data") and not large.HasField("raw_data")
    model = linear_model(small, large, ir_version=onnx.IR_VERSION)
    assert_survives(model, tmp_path)
    assert np.array_equal(load(model).initializers["large"].array, numpy_helper.to_array(large))


def test_specific_values_survive(tmp_path: Path) -> None:
    special: list[np.ndarray[Any, Any]] = [
        np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
        np.array([np.nan, -np.inf, 6e-8], np.float16),
        np.array([np.nan, 1.0], ml_dtypes.float8_e4m3fn),
    ]
    model = linear_model(*(numpy_helper.from_array(array, f"s{index}") for index, array in enumerate(special)))
    assert_survives(model, tmp_path)


def test_order_survives(tmp_path: Path) -> None:
    names = ["zebra", "ant", "mole", "bee"]
    model = linear_model(*(numpy_helper.from_array(np.zeros(3), name) for name in names))
    assert_survives(model, tmp_path)
    assert list(load(model).initializers) == ["w", *names]
