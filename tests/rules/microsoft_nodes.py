"""Tests of one node for operators of com.microsoft, as onnx has for its own: expected is what onnxruntime gives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper
from onnxruntime.capi import onnxruntime_pybind11_state

from tests.end_to_end.backend.cases import Case, Run
from tests.support.drawing import Draw
from tests.support.quantized import options

Array = npt.NDArray[Any]
LACKING = tuple(
    getattr(onnxruntime_pybind11_state, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
) + (RuntimeError,)
"""What onnxruntime raises for what it has not, or not of this type."""
Given = dict[str, Array | None]
"""Arrays by name in the order in which a node reads them; None where it reads nothing."""

MICROSOFT = "com.microsoft"
BATCH, TOKENS, HEADS, SIZE = 2, 3, 2, 8
WIDTH = HEADS * SIZE


class _Draw(Draw):
    """Codes and what belongs to them as well."""

    def scales(self, *shape: int) -> Array:
        """Float32 between 0.01 and 0.05."""
        return self._random.uniform(0.01, 0.05, shape).astype(np.float32)

    def below(self, limit: int, *shape: int, dtype: type = np.int32) -> Array:
        return self._random.integers(0, limit, shape).astype(dtype)

    def codes(self, *shape: int, dtype: type = np.uint8) -> Array:
        limits = np.iinfo(dtype)
        return self._random.integers(limits.min, limits.max + 1, shape).astype(dtype)

    def weights(self, *shape: int, dtype: type = np.int8) -> Array:
        """Codes of seven bits: of eight, processors without VNNI sum up pairs that saturate (see docs/quantized.md)."""
        return self.codes(*shape, dtype=dtype) // 2

    def coded(self, name: str, *shape: int, dtype: type = np.uint8) -> Given:
        """Codes with a scale and a zero point of their own."""
        zero = np.asarray(120 if dtype == np.uint8 else 3, dtype)
        return {name: self.codes(*shape, dtype=dtype), **_scaled(name, 0.02, zero)}


def _scaled(name: str, scale: float, zero: Array) -> Given:
    return {f"{name}_scale": np.asarray(scale, np.float32), f"{name}_zero": zero}


def _case(op: str, given: Given, outputs: int | list[str] = 1, label: str = "", **attributes: Any) -> Case | None:
    """Return a test, or None if this onnxruntime does not have the operator so."""
    names = [f"y{number}" for number in range(outputs)] if isinstance(outputs, int) else outputs
    node = helper.make_node(
        op, [name if value is not None else "" for name, value in given.items()], names, domain=MICROSOFT, **attributes
    )
    feeds = {name: value for name, value in given.items() if value is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in names if name]
    graph = helper.make_graph([node], op, inputs, results)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=10)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options(False), ["CPUExecutionProvider"])
        expected = session.run(None, feeds)
    except LACKING:
        return None
    for value, array in zip(results, expected, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, array.shape))
    del model.graph.output[:]
    model.graph.output.extend(results)
    return Case("microsoft", f"{op}{label}", model, [Run(feeds, list(expected))], 1e-4, 1e-5)


def _elementwise(draw: _Draw) -> Iterator[Case | None]:
    x, row = draw.floats(BATCH, TOKENS, WIDTH), draw.floats(WIDTH)
    yield _case("BiasGelu", {"x": x, "bias": row})
    yield _case("FastGelu", {"x": x, "bias": row})
    yield _case("FastGelu", {"x": x}, label="_alone")
    yield _case("Gelu", {"x": x})
    yield _case("QuickGelu", {"x": x}, alpha=1.3)


def _layers(draw: _Draw) -> Iterator[Case | None]:
    image, kernel, bias = draw.floats(1, 4, 5, 5), draw.floats(6, 4, 3, 3), draw.floats(6)
    for activation, parameters in (
        ("Relu", []),
        ("LeakyRelu", [0.1]),
        ("HardSigmoid", [0.3, 0.4]),
        ("Clip", [0.0, 1.0]),
    ):
        more: dict[str, Any] = {"activation_params": parameters} if parameters else {}
        yield _case("FusedConv", {"x": image, "w": kernel, "b": bias}, label=activation, activation=activation, **more)
    summed = {"x": image, "w": kernel, "b": bias, "z": draw.floats(1, 6, 3, 3)}
    yield _case("FusedConv", summed, label="_sum", activation="Relu")
    yield _case(
        "FusedConv", {"x": image, "w": draw.floats(6, 2, 3, 3), "b": bias}, label="_groups", activation="Tanh", group=2
    )
    rows = draw.floats(TOKENS, 8)
    yield _case(
        "FusedGemm", {"a": rows, "b": draw.floats(8, 5), "c": draw.floats(5)}, activation="Relu", alpha=0.5, beta=2.0
    )
    turned = {"a": rows.T.copy(), "b": draw.floats(5, 8), "c": draw.floats(TOKENS, 5)}
    yield _case("FusedGemm", turned, label="_turned", transA=1, transB=1, activation="LeakyRelu", activation_alpha=0.2)
    one, other = draw.floats(BATCH, TOKENS, 8), draw.floats(BATCH, 8, 5)
    yield _case("FusedMatMul", {"a": one, "b": other}, alpha=0.3)
    turned = {"a": one.swapaxes(1, 2).copy(), "b": other.swapaxes(1, 2).copy()}
    yield _case("FusedMatMul", turned, label="_turned", transA=1, transB=1)
    moved = {"a": one.swapaxes(0, 1).copy(), "b": other.swapaxes(0, 1).copy()}
    yield _case("FusedMatMul", moved, label="_batches", transBatchA=1, transBatchB=1)
    yield _case("NhwcMaxPool", {"x": draw.codes(1, 5, 5, 6)}, kernel_shape=[2, 2], strides=[2, 2])


def _norms(draw: _Draw) -> Iterator[Case | None]:
    x, gamma, beta, bias = draw.floats(BATCH, TOKENS, WIDTH), draw.floats(WIDTH), draw.floats(WIDTH), draw.floats(WIDTH)
    for label, skip in (
        ("", draw.floats(*x.shape)),
        ("_row", draw.floats(TOKENS, WIDTH)),
        ("_one", draw.floats(1, TOKENS, WIDTH)),
    ):
        whole = {"x": x, "skip": skip, "gamma": gamma, "beta": beta, "bias": bias}
        yield _case("SkipLayerNormalization", whole, ["y", "", "", "sum"], label, epsilon=1e-4)
        yield _case("SkipLayerNormalization", {"x": x, "skip": skip, "gamma": gamma}, label=f"{label}_bare")
        root = {"x": x, "skip": skip, "gamma": gamma, "bias": bias}
        yield _case("SkipSimplifiedLayerNormalization", root, ["y", "", "", "sum"], label)
    words = {
        "ids": draw.below(9, BATCH, TOKENS),
        "segments": draw.below(2, BATCH, TOKENS),
        "words": draw.floats(9, WIDTH),
    }
    tables = {"places": draw.floats(5, WIDTH), "kinds": draw.floats(2, WIDTH), "gamma": gamma, "beta": beta}
    mask = {"mask": np.asarray([[1, 1, 0], [1, 1, 1]], np.int32)}
    yield _case("EmbedLayerNormalization", words | tables, ["y", "lengths"])
    yield _case("EmbedLayerNormalization", words | tables | mask, ["y", "lengths", "sum"], "_mask")
    without = {**words, "segments": None} | {**tables, "kinds": None}
    yield _case("EmbedLayerNormalization", without, ["y", "lengths"], "_words")


def _attention(draw: _Draw) -> Iterator[Case | None]:
    query, key, value = (draw.floats(BATCH, TOKENS, WIDTH) for _ in range(3))
    past = {"past_key": draw.floats(BATCH, HEADS, 4, SIZE), "past_value": draw.floats(BATCH, HEADS, 4, SIZE)}
    triple: Given = {"q": query, "k": key, "v": value, "bias": draw.floats(3 * WIDTH)}
    plain: Given = {**triple, "bias": None}
    by_head: Given = {"q": query} | {name: draw.floats(BATCH, HEADS, TOKENS, SIZE) for name in ("k", "v")}
    masked: Given = {"mask": np.asarray([[1, 1, 0], [1, 1, 1]], np.int32)}
    added: Given = {"mask": None, "scores": draw.floats(1, HEADS, TOKENS, TOKENS)}
    long: Given = {"mask": None, "scores": None} | past
    kept = ["y", "present_key", "present_value"]
    for label, given, outputs, more in (
        ("", triple, ["y"], {}),
        ("_plain", plain, ["y"], {"scale": 0.2}),
        ("_causal", plain, ["y"], {"unidirectional": 1}),
        ("_masked", triple | masked, ["y"], {"mask_filter_value": -1e4}),
        ("_added", triple | added, ["y"], {}),
        ("_past", triple | long, kept, {}),
        ("_heads", by_head, ["y"], {}),
        ("_packed", {"q": draw.floats(BATCH, TOKENS, HEADS, 3, SIZE)}, ["y"], {}),
        ("_wide", {**plain, "v": draw.floats(BATCH, TOKENS, HEADS * 5)}, ["y"], {}),
    ):
        yield _case("MultiHeadAttention", given, outputs, label, num_heads=HEADS, **more)
    yield from _packed(draw)
    yield from _grouped(draw)


def _packed(draw: _Draw) -> Iterator[Case | None]:
    x, weight, bias = draw.floats(BATCH, TOKENS, 8), draw.floats(8, 3 * WIDTH), draw.floats(3 * WIDTH)
    whole: Given = {"x": x, "w": weight, "bias": bias}
    masks: tuple[tuple[str, Array], ...] = (
        ("_lengths", np.asarray([2, 3], np.int32)),
        ("_masked", np.asarray([[1, 1, 0], [1, 1, 1]], np.int32)),
    )
    yield _case("Attention", whole, num_heads=HEADS)
    yield _case("Attention", whole, label="_causal", num_heads=HEADS, unidirectional=1, scale=0.3)
    for label, mask in masks:
        yield _case("Attention", whole | {"mask": mask}, label=label, num_heads=HEADS)
    added: Given = {"mask": None, "past": None, "scores": draw.floats(BATCH, HEADS, TOKENS, TOKENS)}
    yield _case("Attention", whole | added, label="_added", num_heads=HEADS)
    past: Given = {"mask": None, "past": draw.floats(2, BATCH, HEADS, 4, SIZE)}
    yield _case("Attention", whole | past, ["y", "present"], "_past", num_heads=HEADS)
    sizes: Given = {"x": x, "w": draw.floats(8, 2 * 16 + 10), "bias": draw.floats(2 * 16 + 10)}
    yield _case("Attention", sizes, label="_sizes", num_heads=HEADS, qkv_hidden_sizes=[16, 16, 10])
    coded: Given = {"x": draw.codes(BATCH, TOKENS, 8), "w": draw.below(100, 8, 3 * WIDTH, dtype=np.int8), "bias": bias}
    scales: Given = {"x_scale": np.float32([0.02]), "w_scale": np.float32([0.01]), "mask": None}
    zeros: Given = {"x_zero": np.uint8([120]), "w_zero": np.int8([0])}
    yield _case("QAttention", coded | scales | zeros, num_heads=HEADS)


def _grouped(draw: _Draw) -> Iterator[Case | None]:
    heads, shared, past, size = 4, 2, 4, 16  # a rotation wants 16
    total = np.asarray(TOKENS + past, np.int32)
    fresh: Given = {"q": draw.floats(BATCH, TOKENS, heads * size)} | {
        name: draw.floats(BATCH, TOKENS, shared * size) for name in ("k", "v")
    }
    empty: Given = {name: draw.floats(BATCH, shared, 0, size) for name in ("past_key", "past_value")}
    first: Given = empty | {"lengths": np.full(BATCH, TOKENS - 1, np.int32), "total": np.asarray(TOKENS, np.int32)}
    caches: Given = {name: draw.floats(BATCH, shared, past, size) for name in ("past_key", "past_value")}
    cache: Given = {name: value[:1] for name, value in caches.items() if value is not None}
    later: Given = cache | {"lengths": np.full(1, TOKENS + past - 1, np.int32), "total": total}
    fresh_one: Given = {name: value[:1] for name, value in fresh.items() if value is not None}
    turns: Given = {name: draw.floats(16, size // 2) for name in ("cos", "sin")}
    one: Given = {name: value[:, :1] for name, value in fresh.items() if value is not None}
    step: Given = caches | {"lengths": np.full(BATCH, past, np.int32), "total": np.asarray(past + 1, np.int32)}
    settings = {"num_heads": heads, "kv_num_heads": shared}
    kept = ["y", "present_key", "present_value"]
    for label, given, more in (
        ("", fresh | first, {}),
        ("_later", fresh_one | later, {"scale": 0.2}),
        ("_step", one | step, {"softcap": 3.0}),
        ("_rotated", fresh | first | turns, {"do_rotary": 1}),
        ("_pairs", one | step | turns, {"do_rotary": 1, "rotary_interleaved": 1}),
        ("_window", fresh | first, {"local_window_size": 2}),
        ("_smooth", fresh | first, {"smooth_softmax": 1}),
    ):
        yield _case("GroupQueryAttention", given, kept, label, **settings, **more)


def _rotary(draw: _Draw) -> Iterator[Case | None]:
    places: Given = {"places": draw.below(6, BATCH, TOKENS, dtype=np.int64)}
    turns: Given = {name: draw.floats(6, SIZE // 2) for name in ("cos", "sin")}
    flat, by_head = draw.floats(BATCH, TOKENS, WIDTH), draw.floats(BATCH, HEADS, TOKENS, SIZE)
    half: Given = {name: draw.floats(6, SIZE // 4) for name in ("cos", "sin")}
    offset: Given = {"places": np.asarray([2], np.int64)}
    yield _case("RotaryEmbedding", {"x": flat} | places | turns)
    yield _case("RotaryEmbedding", {"x": flat} | offset | turns, label="_offset", interleaved=1)
    yield _case("RotaryEmbedding", {"x": by_head} | places | turns, label="_heads")
    part = {"rotary_embedding_dim": SIZE // 2, "num_heads": HEADS}
    yield _case("RotaryEmbedding", {"x": flat} | places | half, label="_part", **part)
    yield _case("RotaryEmbedding", {"x": by_head} | places | half, label="_part_heads", **part)


def _coded(draw: _Draw) -> Iterator[Case | None]:
    for dtype in (np.uint8, np.int8):
        label, zero = np.dtype(dtype).name, np.asarray(100 if dtype == np.uint8 else -4, dtype)
        out = _scaled("y", 0.03, zero)
        one, other = draw.coded("a", BATCH, 4, 5, dtype=dtype), draw.coded("b", 4, 5, dtype=dtype)
        row = draw.coded("b", 5, dtype=dtype)
        for op in ("QLinearAdd", "QLinearMul"):
            yield _case(op, one | other | out, label=label)
            yield _case(op, one | row | out, label=f"{label}_row")
        for op, more in (("QLinearLeakyRelu", {"alpha": 0.2}), ("QLinearSigmoid", {})):
            yield _case(op, one | out, label=label, **more)
        yield _case("QLinearSoftmax", one | out, label=label, axis=-1, opset=13)
        images = draw.coded("x", 1, 6, 4, 4, dtype=dtype)
        last = draw.coded("x", 1, 4, 4, 6, dtype=dtype)
        window = {"kernel_shape": [2, 2], "strides": [2, 2]}
        yield _case("QLinearAveragePool", images | out, label=label, **window)
        yield _case("QLinearAveragePool", last | out, label=f"{label}_last", channels_last=1, **window)
        yield _case("QLinearGlobalAveragePool", images | out, label=label)
        yield _case("QLinearGlobalAveragePool", last | out, label=f"{label}_last", channels_last=1)
        whole = out | draw.coded("a", 2, 3, 4, dtype=dtype) | draw.coded("b", 2, 5, 4, dtype=dtype)
        yield _case("QLinearConcat", whole, label=label, axis=1)
        chosen: Given = {"c": draw.below(2, 4, 5, dtype=np.bool_)}
        yield _case("QLinearWhere", chosen | one | other | out, label=label)
        yield _case("DequantizeLinear", one, label=label)
        encoded: Given = {"x": draw.floats(BATCH, 4, 5)}
        yield _case("QuantizeLinear", encoded | out, label=label)
        yield from _coded_layers(draw, dtype, out)


def _coded_layers(draw: _Draw, dtype: type, out: Given) -> Iterator[Case | None]:
    label = np.dtype(dtype).name
    rows, image = draw.coded("x", TOKENS, 8, dtype=dtype), draw.coded("x", 1, 5, 5, 4, dtype=dtype)
    weight: Given = {"w": draw.weights(8, 6), **_scaled("w", 0.01, np.asarray(0, np.int8))}
    columns: Given = {**weight, "w_scale": draw.scales(6), "w_zero": np.zeros(6, np.int8)}
    bias: Given = {"bias": draw.below(1000, 6)}
    yield _case("QGemm", rows | weight | bias | out, label=label, alpha=1.0)
    yield _case("QGemm", rows | columns | bias | out, label=f"{label}_columns")
    yield _case("QGemm", rows | weight, label=f"{label}_real")
    kernel: Given = {
        "w": draw.weights(6, 4, 3, 3),
        "w_scale": draw.scales(6),
        "w_zero": np.zeros(6, np.int8),
    }
    yield _case("QLinearConv", image | kernel | out | bias, label=label, channels_last=1)
    numbers: Given = {"a": rows["x"], "b": weight["w"], "a_scale": rows["x_scale"], "b_scale": weight["w_scale"]}
    zeros: Given = {"a_zero": rows["x_zero"], "b_zero": weight["w_zero"]}
    yield _case("MatMulIntegerToFloat", numbers | zeros, label=label)
    yield _case("MatMulIntegerToFloat", numbers | zeros | {"bias": draw.floats(6)}, label=f"{label}_bias")


def _packed_numbers(draw: _Draw) -> Iterator[Case | None]:
    x, bias = draw.floats(TOKENS, 32), draw.floats(6)
    for dtype in (np.uint8, np.int8):
        weight: Given = {
            "w": draw.weights(32, 6, dtype=dtype),
            "scale": draw.scales(6),
            "zero": draw.below(9, 6, dtype=dtype),
        }
        yield _case("DynamicQuantizeMatMul", {"x": x} | weight | {"bias": bias}, label=np.dtype(dtype).name)
    for bits in (4, 8):
        settings = {"K": 32, "N": 6, "bits": bits, "block_size": 16}
        blocks: Given = {"w": draw.codes(6, 2, 2 * bits), "scales": draw.scales(12)}
        zeros: Given = {"zeros": draw.codes(6 * bits // 4)}
        yield _case("MatMulNBits", {"x": x} | blocks, label=f"{bits}", **settings)
        yield _case("MatMulNBits", {"x": x} | blocks | zeros, label=f"{bits}_zeros", **settings)
        whole = {"x": x} | blocks | {"zeros": None, "order": None, "bias": bias}
        yield _case("MatMulNBits", whole, label=f"{bits}_bias", **settings)
    table: Given = {"table": draw.codes(9, 16), "ids": draw.below(9, BATCH, TOKENS), "scales": draw.scales(9, 2)}
    yield _case("GatherBlockQuantized", table, bits=4, block_size=16, quantize_axis=1, gather_axis=0)
    direction: Given = {"w": draw.weights(1, 6, 16), "r": draw.weights(1, 4, 16)}
    rest: Given = {
        "bias": draw.floats(1, 32),
        "lengths": None,
        "h": draw.floats(1, BATCH, 4),
        "c": draw.floats(1, BATCH, 4),
        "p": None,
    }
    scales: Given = {"ws": draw.scales(1), "wz": np.int8([0]), "rs": draw.scales(1), "rz": np.int8([0])}
    whole = {"x": draw.floats(TOKENS, BATCH, 6)} | direction | rest | scales
    yield _case("DynamicQuantizeLSTM", whole, 3, hidden_size=4)


@cache
def microsoft_cases() -> tuple[Case, ...]:
    """Return the tests of what this onnxruntime has."""
    draw = _Draw()
    kinds = (_elementwise, _layers, _norms, _attention, _rotary, _coded, _packed_numbers)
    return tuple(case for kind in kinds for case in kind(draw) if case is not None)
