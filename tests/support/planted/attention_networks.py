"""Networks with one attention operator: a small one and a wide one that contains it, in all forms of the operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.builders import Pair

Array = npt.NDArray[Any]

CHANNELS, RESULTS = 6, 5
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Sizes:
    """How many heads share keys and values, how many there are of those, and the sizes of both kinds of heads."""

    groups: int
    shared: int
    size: int
    value: int

    @property
    def heads(self) -> int:
        return self.groups * self.shared


@dataclass(frozen=True)
class Layers:
    """Weights of one network: [channels, groups, shared, size] and so on; biases likewise, without the channels."""

    sizes: Sizes
    arrays: dict[str, Array]

    def flat(self, name: str) -> Array:
        """Return a weight as the matrix, a bias as the vector, that a MatMul or an Add reads."""
        array = self.arrays[name]
        if name in ("out", "out_bias"):
            return array.reshape(-1, RESULTS) if name == "out" else array
        return array.reshape(CHANNELS, -1) if not name.endswith("_bias") else array.ravel()


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights."""
    own, shared = (sizes.groups, sizes.shared), (sizes.groups,)
    return {
        "query": (CHANNELS, *own, sizes.size), "key": (CHANNELS, *shared, sizes.size),
        "value": (CHANNELS, *shared, sizes.value), "query_bias": (*own, sizes.size),
        "key_bias": (*shared, sizes.size), "value_bias": (*shared, sizes.value),
        "out": (*own, sizes.value, RESULTS), "out_bias": (RESULTS,),
    }  # fmt: skip


def drawn(sizes: Sizes, random: np.random.Generator) -> Layers:
    """Return random weights."""
    return Layers(sizes, {name: random.standard_normal(shape) for name, shape in shapes(sizes).items()})


def planted(small: Sizes, wide: Sizes, seed: int, constants: bool = True, same: bool = False) -> tuple[Layers, Layers]:
    """Return a small network and one that holds it at random places.

    The heads in excess are dead. Elements in excess of the queries meet keys that are constant, or are 0 themselves;
    those of the values are dead, or constant if ``constants``. ``same`` removes the same pairs of elements of all heads
    (0 and half the size further), and both of their keys are 0.
    """
    random = np.random.default_rng(seed)
    inner, outer = drawn(small, random), drawn(wide, random)
    groups = np.sort(random.permutation(wide.groups)[: small.groups])
    heads = _rows(random, small.groups, wide.shared, small.shared)
    size = _rows(random, small.groups, wide.size, small.size)
    value = _rows(random, small.groups, wide.value, small.value)
    if same:
        half = _rows(random, 1, wide.size // 2, small.size // 2)
        size = np.repeat(np.concatenate([half, half + wide.size // 2], axis=1), small.groups, axis=0)
    arrays = outer.arrays
    gone = np.full((wide.groups, wide.size), True)
    gone[groups[:, None], size] = False
    zeroed = gone & (random.random(gone.shape) < 0.5) & (not same)  # the queries are 0 there
    arrays["query_bias"] *= ~zeroed[:, None]
    arrays["query"] *= ~zeroed[:, None]
    arrays["key"] *= ~(gone & ~zeroed)
    arrays["key_bias"] *= ~(gone & same)
    spare = np.full((wide.groups, wide.value), True)
    spare[groups[:, None], value] = False
    constant = spare & (random.random(spare.shape) < 0.5) & constants
    arrays["value"] *= ~constant
    arrays["out"] *= ~(spare & ~constant)[:, None, :, None]
    alive = np.full((wide.groups, wide.shared), False)
    alive[groups[:, None], heads] = True
    arrays["out"] *= alive[:, :, None, None]
    _insert(inner.arrays, arrays, groups, heads, size, value)
    fill = np.where(constant, arrays["value_bias"], 0.0)
    arrays["out_bias"] = inner.arrays["out_bias"] - np.einsum("ge,gseo->o", fill, arrays["out"])
    return inner, outer


def _rows(random: np.random.Generator, rows: int, length: int, count: int) -> Array:
    """Return for each row that many of the places, in order."""
    return np.stack([np.sort(random.permutation(length)[:count]) for _ in range(rows)])


def _insert(
    small: dict[str, Array], wide: dict[str, Array], groups: Array, heads: Array, size: Array, value: Array
) -> None:
    one, two = groups[:, None], groups[:, None, None]
    wide["query"][:, two, heads[:, :, None], size[:, None, :]] = small["query"]
    wide["query_bias"][two, heads[:, :, None], size[:, None, :]] = small["query_bias"]
    wide["key"][:, one, size], wide["key_bias"][one, size] = small["key"], small["key_bias"]
    wide["value"][:, one, value], wide["value_bias"][one, value] = small["value"], small["value_bias"]
    wide["out"][two, heads[:, :, None], value[:, None, :]] = small["out"]


# -- the networks: x is projected to queries, keys and values; one more layer reads the result ----------------------


class Network:
    """One network under construction: nodes, stored tensors and inputs; ``layers`` are its weights."""

    def __init__(self, layers: Layers, opset: int = 23, dtype: Any = np.float32) -> None:
        self.layers, self.opset, self.dtype = layers, opset, dtype
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, Array] = {}
        self.inputs = [self.info("x", "N", "T", CHANNELS)]
        self.outputs: list[onnx.ValueInfoProto] = []

    def info(self, name: str, *dims: Any, elem_type: int = 0) -> onnx.ValueInfoProto:
        """Describe an input or output."""
        return helper.make_tensor_value_info(
            name, elem_type or helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)), dims
        )

    def input(self, name: str, *dims: Any, elem_type: int = 0) -> str:
        """Add a graph input."""
        self.inputs.append(self.info(name, *dims, elem_type=elem_type))
        return name

    def store(self, name: str, array: Any, dtype: Any = None) -> str:
        """Add an initializer."""
        self.tensors[name] = np.asarray(array).astype(dtype or self.dtype)
        return name

    def node(self, op: str, inputs: list[str], output: str, *more: str, domain: str = "", **attributes: Any) -> str:
        """Add a node; an attribute that is None is absent."""
        present = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(
            helper.make_node(op, inputs, [output, *more], name=f"n{len(self.nodes)}", domain=domain, **present)
        )
        return output

    def linear(self, x: str, name: str, bias: bool = True) -> str:
        """Add a layer."""
        matrix = self.store(name, self.layers.flat(name))
        y = self.node("MatMul", [x, matrix], f"{name}_product")
        return (
            self.node("Add", [y, self.store(f"{name}_bias", self.layers.flat(f"{name}_bias"))], f"{name}_sum")
            if bias
            else y
        )

    def triple(self, x: str = "x", bias: bool = True) -> list[str]:
        """Add the layers that make queries, keys and values."""
        return [self.linear(x, name, bias) for name in ("query", "key", "value")]

    def by_head(self, x: str, heads: int, size: int) -> str:
        """Bring [N, T, channels] to [N, heads, T, size]."""
        split = self.node("Reshape", [x, self.store(f"{x}_split", [0, 0, heads, size], np.int64)], f"{x}_heads")
        return self.node("Transpose", [split], f"{x}_by_head", perm=[0, 2, 1, 3])

    def joined(self, x: str) -> str:
        """Bring [N, heads, T, size] back to [N, T, channels]."""
        sizes = self.layers.sizes
        turned = self.node("Transpose", [x], f"{x}_turned", perm=[0, 2, 1, 3])
        return self.node(
            "Reshape", [turned, self.store(f"{x}_join", [0, 0, sizes.heads * sizes.value], np.int64)], f"{x}_joined"
        )

    def model(self, y: str) -> onnx.ModelProto:
        """Read ``y`` by the last layer and return the model."""
        self.linear(y, "out")
        self.nodes[-1].output[0] = "y"
        stored = [numpy_helper.from_array(array, name) for name, array in self.tensors.items()]
        outputs = [self.info("y", "N", "T", RESULTS), *self.outputs]
        graph = helper.make_graph(self.nodes, "network", self.inputs, outputs, stored)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    @property
    def counts(self) -> dict[str, int]:
        """The attributes of Attention for operands without an axis for heads."""
        return {"q_num_heads": self.layers.sizes.heads, "kv_num_heads": self.layers.sizes.groups}


def flat(net: Network, scale: float | None, **attributes: Any) -> onnx.ModelProto:
    """Attention of operands [N, T, channels]."""
    return net.model(net.node("Attention", net.triple(), "a", scale=scale, **net.counts, **attributes))


def by_head(net: Network, scale: float | None, **attributes: Any) -> onnx.ModelProto:
    """Attention of operands [N, heads, T, size]."""
    sizes = net.layers.sizes
    query, key, value = net.triple()
    operands = [
        net.by_head(query, sizes.heads, sizes.size), net.by_head(key, sizes.groups, sizes.size),
        net.by_head(value, sizes.groups, sizes.value),
    ]  # fmt: skip
    return net.model(net.joined(net.node("Attention", operands, "a", scale=scale, **attributes)))


def multi_head(net: Network, scale: float | None, bias: bool = False, **attributes: Any) -> onnx.ModelProto:
    """MultiHeadAttention, perhaps with the biases inside."""
    operands = net.triple(bias=not bias)
    if bias:
        parts = [net.layers.flat(f"{name}_bias") for name in ("query", "key", "value")]
        operands.append(net.store("biases", np.concatenate(parts)))
    heads = net.layers.sizes.heads
    y = net.node("MultiHeadAttention", operands, "a", domain=MICROSOFT, num_heads=heads, scale=scale, **attributes)
    return net.model(y)


def biased(net: Network, scale: float | None) -> onnx.ModelProto:
    """MultiHeadAttention with the biases inside."""
    return multi_head(net, scale, bias=True)


def masked(net: Network, scale: float | None) -> onnx.ModelProto:
    """MultiHeadAttention with a mask of the keys and one bias on the scores for all heads.

    No query may lose all of its keys: -10000 would be added to all of its scores, which leaves them few digits.
    """
    keys = net.node("Cast", [net.input("mask", "N", "T", elem_type=TensorProto.BOOL)], "m", to=TensorProto.INT32)
    operands = [*net.triple(), "", keys, net.input("bias", 1, 1, "T", "T")]
    heads = net.layers.sizes.heads
    y = net.node("MultiHeadAttention", operands, "a", domain=MICROSOFT, num_heads=heads, scale=scale)
    return net.model(y)


def unidirectional(net: Network, scale: float | None) -> onnx.ModelProto:
    """MultiHeadAttention in which no position looks ahead."""
    return multi_head(net, scale, unidirectional=1)


def projected(net: Network, scale: float | None, **attributes: Any) -> onnx.ModelProto:
    """Attention of com.microsoft, with the layers inside."""
    names, sizes = ("query", "key", "value"), net.layers.sizes
    weight = net.store("weight", np.concatenate([net.layers.flat(name) for name in names], axis=1))
    bias = net.store("biases", np.concatenate([net.layers.flat(f"{name}_bias") for name in names]))
    widths = [sizes.heads * size for size in (sizes.size, sizes.size, sizes.value)]
    y = net.node(
        "Attention", ["x", weight, bias], "a", domain=MICROSOFT, num_heads=sizes.heads, scale=scale,
        qkv_hidden_sizes=widths, **attributes,
    )  # fmt: skip
    return net.model(y)


def lengths(net: Network) -> list[str]:
    """Add what GroupQueryAttention wants to know of the lengths of sequences, all equal."""
    shape = net.node("Shape", ["x"], "shape")
    batch = net.node("Gather", [shape, net.store("first", [0], np.int64)], "batch")
    total = net.node("Gather", [shape, net.store("second", 1, np.int64)], "length")
    last = net.node("Sub", [total, net.store("one", 1, np.int64)], "last")
    every = net.node("Expand", [last, batch], "every")
    return [net.node("Cast", [name], f"{name}_32", to=TensorProto.INT32) for name in (every, total)]


def grouped(net: Network, scale: float | None, packed: bool = False, **attributes: Any) -> onnx.ModelProto:
    """GroupQueryAttention, perhaps with queries, keys and values in one tensor."""
    sizes, names = net.layers.sizes, ("query", "key", "value")
    if packed:
        weight = net.store("weight", np.concatenate([net.layers.flat(name) for name in names], axis=1))
        bias = net.store("biases", np.concatenate([net.layers.flat(f"{name}_bias") for name in names]))
        operands = [net.node("Add", [net.node("MatMul", ["x", weight], "product"), bias], "sum"), "", ""]
    else:
        operands = net.triple()
    tables = []
    if attributes.get("do_rotary"):
        angles = np.arange(16)[:, None] * np.linspace(0.1, 1, sizes.size // 2)
        tables = [net.store("cos", np.cos(angles)), net.store("sin", np.sin(angles))]
    y = net.node(
        "GroupQueryAttention", [*operands, "", "", *lengths(net), *tables], "a", "", "", domain=MICROSOFT,
        num_heads=sizes.heads, kv_num_heads=sizes.groups, scale=scale, **attributes,
    )  # fmt: skip
    return net.model(y)


def packed(net: Network, scale: float | None) -> onnx.ModelProto:
    """GroupQueryAttention of one tensor."""
    return grouped(net, scale, packed=True)


def cached(net: Network, scale: float | None, read: bool = True, shown: bool = True) -> onnx.ModelProto:
    """Attention that reads keys and values of earlier positions, and shows them to the caller or to nobody."""
    sizes = net.layers.sizes
    past = [net.input(name, "N", sizes.groups, "P", size) for name, size in (("pk", sizes.size), ("pv", sizes.value))]
    inputs = [*net.triple(), "", *past] if read else net.triple()
    net.inputs = net.inputs if read else net.inputs[:1]
    y = net.node("Attention", inputs, "a", "k", "v", scale=scale, **net.counts)
    if shown:
        ends = (("k", sizes.size), ("v", sizes.value))
        net.outputs = [net.info(name, "N", sizes.groups, f"{name}_length", size) for name, size in ends]
    return net.model(y)


Form = Callable[[Network, "float | None"], onnx.ModelProto]


def pair(form: Form, small: Sizes, wide: Sizes, seed: int = 0, opset: int = 23, **planting: bool) -> Pair:
    """Return the two networks of one form; the small one says what the wide one's scores are multiplied by."""
    inner, outer = planted(small, wide, seed, **planting)
    return Pair(form(Network(outer, opset), None), form(Network(inner, opset), float(1 / np.sqrt(wide.size))))


PLAIN = (Sizes(2, 1, 3, 2), Sizes(4, 1, 7, 5))
SHARED = (Sizes(2, 2, 3, 2), Sizes(3, 3, 7, 5))
EIGHTS = (Sizes(2, 2, 8, 8), Sizes(3, 3, 16, 16))
FORMS: dict[Form, tuple[Sizes, Sizes]] = {
    flat: SHARED, by_head: SHARED, multi_head: PLAIN, biased: PLAIN, masked: PLAIN, unidirectional: PLAIN,
    projected: PLAIN, grouped: EIGHTS, packed: EIGHTS,
}  # fmt: skip
ONNX = (flat, by_head)


def kinds(model: onnx.ModelProto, op: str) -> dict[str, Any]:
    """Return the attributes of the only node of an operator."""
    (node,) = (node for node in model.graph.node if node.op_type == op)
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def behind_a_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put a layer in front of everything; nothing reads its second unit, and its fifth is constant."""
    random = np.random.default_rng(1)
    weight, bias = random.standard_normal((CHANNELS, CHANNELS)), random.standard_normal(CHANNELS)
    weight[:, 4] = 0
    for node in model.graph.node:
        node.input[:] = ["hidden" if name == "x" else name for name in node.input]
    for place, (op, inputs) in enumerate((("MatMul", ["x", "w"]), ("Add", ["wx", "b"]))):
        model.graph.node.insert(place, helper.make_node(op, inputs, [("wx", "hidden")[place]]))
    for tensor in model.graph.initializer:
        if tensor.name in ("query", "key", "value", "weight"):
            values = numpy_helper.to_array(tensor).copy()
            values[1] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    stored_too = [(name, array.astype(np.float32)) for name, array in (("w", weight), ("b", bias))]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored_too)
    return model
