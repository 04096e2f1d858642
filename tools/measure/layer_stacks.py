"""Small ONNX layer stacks of any width, for measure_rounding.py and measure_layer_norm.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTHS = (64, 63, 62, 60, 56, 52, 50, 49, 48, 40, 34, 33, 32)


@dataclass(frozen=True)
class Case:
    """A layer stack to time.

    Attributes:
        name: what the command line calls it.
        description: what is narrowed, and what stays as wide as it was.
        build: (width, size) to model.
        sizes: extents of each spatial axis.
        widths: channel counts, the original one first.
    """

    name: str
    description: str
    build: Callable[[int, int], onnx.ModelProto]
    sizes: tuple[int, ...] = (56, 28, 14, 7)
    widths: tuple[int, ...] = WIDTHS


class Stack:
    """A chain of layers under construction; every method adds one layer and returns the name of its output."""

    def __init__(self, shape: tuple[int, ...], opset: int = 17) -> None:
        self.opset = opset
        self.input = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        self.rank = len(shape) - 2
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.generator = np.random.default_rng(0)

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output."""
        output = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def weight(self, *shape: int) -> str:
        """Add float32 weights of unit gain."""
        name = f"weight_{len(self.initializers)}"
        fan_in = max(1, int(np.prod(shape[1:])))
        values = self.generator.standard_normal(shape, dtype=np.float32) / np.sqrt(fan_in, dtype=np.float32)
        self.initializers.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def constant(self, values: np.ndarray) -> str:
        """Add a constant as it is."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def number(self, value: float) -> str:
        """Add a float32 scalar."""
        return self.constant(np.array(value, dtype=np.float32))

    def conv(self, source: str, inputs: int, outputs: int, kernel: int = 3, group: int = 1, stride: int = 1) -> str:
        """Add a zero-padded convolution with a bias (BatchNormalization folds into it before it runs)."""
        weights = self.weight(outputs, inputs // group, *[kernel] * self.rank)
        pads, strides = [kernel // 2] * (2 * self.rank), [stride] * self.rank
        return self.op("Conv", source, weights, self.weight(outputs), group=group, pads=pads, strides=strides)

    def relu(self, source: str) -> str:
        """Add a ReLU."""
        return self.op("Relu", source)

    def model(self, output: str) -> onnx.ModelProto:
        """Close the stack; shapes are inferred, as exporters record them and as onnxruntime's rewrites want them."""
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "stack", [self.input], [result], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def image(channels: int, size: int, rank: int = 2) -> Stack:
    """A stack over one image (or signal, or volume) of ``channels`` channels."""
    return Stack((1, channels, *[size] * rank))


def conv_chain(rank: int) -> Callable[[int, int], onnx.ModelProto]:
    """Four 3-tap convolutions with every tensor between them narrowed."""

    def build(width: int, size: int) -> onnx.ModelProto:
        stack = image(3, size, rank)
        hidden = stack.relu(stack.conv("input", 3, width))
        for _ in range(4):
            hidden = stack.relu(stack.conv(hidden, width, width))
        return stack.model(hidden)

    return build


def one_tensor(kernel: int) -> Callable[[int, int], onnx.ModelProto]:
    """Convolutions 64 to width to 64: every second tensor narrowed, as when only some layers were pruned."""

    def build(width: int, size: int) -> onnx.ModelProto:
        stack = image(64, size)
        hidden = "input"
        for _ in range(3):
            hidden = stack.relu(stack.conv(hidden, 64, width, kernel))
            hidden = stack.relu(stack.conv(hidden, width, 64, kernel))
        return stack.model(hidden)

    return build


def first_conv(width: int, size: int) -> onnx.ModelProto:
    """An image through a strided stem into a convolution: only the stem's output narrowed."""
    stack = image(3, 2 * size)
    hidden = stack.relu(stack.conv("input", 3, width, 3, stride=2))
    return stack.model(stack.relu(stack.conv(hidden, width, 64, 3)))


def inverted_residual(hidden: int, stream: int, size: int, squeeze: int = 0) -> onnx.ModelProto:
    """Blocks of 1x1, depthwise 3x3, squeeze-and-excitation if asked for, 1x1 and a residual Add, with SiLU or Clip."""
    stack = image(stream, size)
    bounds = stack.weight(), stack.weight()
    stack.initializers[0].CopyFrom(numpy_helper.from_array(np.float32(0), bounds[0]))
    stack.initializers[1].CopyFrom(numpy_helper.from_array(np.float32(6), bounds[1]))

    def activation(source: str) -> str:
        return stack.op("Mul", source, stack.op("Sigmoid", source)) if squeeze else stack.op("Clip", source, *bounds)

    flow = stack.conv("input", stream, stream, 1)
    for _ in range(3):
        inner = activation(stack.conv(flow, stream, hidden, 1))
        inner = activation(stack.conv(inner, hidden, hidden, 3, group=hidden))
        if squeeze:
            gate = stack.op("GlobalAveragePool", inner)
            gate = activation(stack.conv(gate, hidden, squeeze, 1))
            gate = stack.op("Sigmoid", stack.conv(gate, squeeze, hidden, 1))
            inner = stack.op("Mul", inner, gate)
        flow = stack.op("Add", flow, stack.conv(inner, hidden, stream, 1))
    return stack.model(flow)


def grouped(width: int, size: int) -> onnx.ModelProto:
    """Bottlenecks whose 3x3 convolution has four groups of ``width`` channels each."""
    stack = image(64, size)
    flow = "input"
    for _ in range(3):
        inner = stack.relu(stack.conv(flow, 64, 4 * width, 1))
        inner = stack.relu(stack.conv(inner, 4 * width, 4 * width, 3, group=4))
        flow = stack.relu(stack.op("Add", flow, stack.conv(inner, 4 * width, 64, 1)))
    return stack.model(flow)


def residual(width: int, size: int) -> onnx.ModelProto:
    """Basic ResNet blocks whose stream is narrowed, the inside as wide as it was."""
    stack = image(3, size)
    flow = stack.relu(stack.conv("input", 3, width))
    for _ in range(3):
        inner = stack.conv(stack.relu(stack.conv(flow, width, 64)), 64, width)
        flow = stack.relu(stack.op("Add", flow, inner))
    return stack.model(stack.op("GlobalAveragePool", flow))


def concatenated(width: int, size: int) -> onnx.ModelProto:
    """DenseNet-like: each layer's output joins all the earlier ones in a Concat; each part is narrowed."""
    stack = image(3, size)
    flow, channels = stack.relu(stack.conv("input", 3, 64)), 64
    for _ in range(4):
        grown = stack.relu(stack.conv(flow, channels, width))
        flow, channels = stack.op("Concat", flow, grown, axis=1), channels + width
    return stack.model(stack.op("GlobalAveragePool", flow))


def inception(width: int, size: int) -> onnx.ModelProto:
    """Inception-like: 1x1, 3x3 and pooled branches concatenated; each branch's output narrowed."""
    stack = image(64, size)
    flow, channels = stack.relu(stack.conv("input", 64, 64, 1)), 64
    for _ in range(3):
        pooled = stack.op("MaxPool", flow, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        parts = [(flow, 1), (flow, 3), (pooled, 1)]
        branches = [stack.relu(stack.conv(part, channels, width, kernel)) for part, kernel in parts]
        flow = stack.op("Concat", *branches, axis=1)
        channels = 3 * width
    return stack.model(stack.op("GlobalAveragePool", flow))


def pooled(width: int, size: int) -> onnx.ModelProto:
    """Convolutions with pools between them, all narrowed."""
    stack = image(3, size)
    hidden = stack.relu(stack.conv("input", 3, width))
    for pool in ("MaxPool", "AveragePool"):
        hidden = stack.op(pool, hidden, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        hidden = stack.relu(stack.conv(hidden, width, width))
    return stack.model(hidden)


def squeeze_only(width: int, size: int) -> onnx.ModelProto:
    """Squeeze-and-excitation whose inner width alone is narrowed (96 channels around it)."""
    return inverted_residual(96, 32, size, squeeze=width)


def decoder(width: int, size: int) -> onnx.ModelProto:
    """ConvTranspose between convolutions: its input and output narrowed."""
    stack = image(64, size // 2)
    hidden = stack.relu(stack.conv("input", 64, width))
    for _ in range(2):
        kernel = stack.weight(width, width, 2, 2)
        hidden = stack.relu(stack.op("ConvTranspose", hidden, kernel, stack.weight(width), strides=[2, 2]))
        hidden = stack.relu(stack.conv(hidden, width, width))
    return stack.model(hidden)


def fully_connected(width: int, rows: int) -> onnx.ModelProto:
    """Gemm layers with every width narrowed; ``rows`` is the batch."""
    stack = Stack((rows, width))
    hidden = "input"
    for _ in range(4):
        hidden = stack.relu(stack.op("Gemm", hidden, stack.weight(width, width), stack.weight(width), transB=1))
    return stack.model(hidden)


def projections(width: int, rows: int) -> onnx.ModelProto:
    """MatMul and Add over [1, rows, width] tokens, hidden width narrowed."""
    stack = Stack((1, rows, 256))
    flow = "input"
    for _ in range(3):
        inner = stack.op("Add", stack.op("MatMul", flow, stack.weight(256, width)), stack.weight(width))
        inner = stack.op("MatMul", stack.relu(inner), stack.weight(width, 256))
        flow = stack.op("Add", flow, stack.op("Add", inner, stack.weight(256)))
    return stack.model(flow)


def head(width: int, size: int) -> onnx.ModelProto:
    """Convolution, pool, Flatten and Gemm: the channels in front of the classifier narrowed."""
    stack = image(64, size)
    hidden = stack.op("Flatten", stack.op("GlobalAveragePool", stack.relu(stack.conv("input", 64, width))))
    return stack.model(stack.op("Gemm", hidden, stack.weight(1000, width), stack.weight(1000), transB=1))


def matrix_case(build: Callable[[int, int], onnx.ModelProto], sizes: tuple[int, int], text: str, name: str) -> Case:
    """A case of matrix products, whose size is a number of rows."""
    widths = (512, 511, 510, 508, 504, 496, 480, 386, 385, 384, 258, 257, 256)
    return Case(name, text, build, sizes, widths)


HIDDEN_WIDTHS = (192, 191, 190, 188, 184, 176, 168, 162, 161, 160, 100, 98, 97, 96)
PART_WIDTHS = (32, 31, 30, 28, 24, 20, 18, 17, 16, 12, 8)
THIN_WIDTHS = (16, 15, 14, 12, 10, 8, 6, 4, 3, 2, 1)


def hidden(squeeze: int) -> Callable[[int, int], onnx.ModelProto]:
    """Inverted residuals on a stream of 32, the inside narrowed."""
    return lambda width, size: inverted_residual(width, 32, size, squeeze)


def stream(inside: int) -> Callable[[int, int], onnx.ModelProto]:
    """Inverted residuals whose stream is narrowed."""
    return lambda width, size: inverted_residual(inside, width, size)


CASES = (
    Case("conv2d", "3x3 convolutions, all tensors narrowed", conv_chain(2)),
    Case("conv2d-thin", "3x3 convolutions of few channels", conv_chain(2), widths=THIN_WIDTHS),
    Case("alternate3", "3x3 convolutions 64 to width to 64", one_tensor(3)),
    Case("alternate1", "1x1 convolutions 64 to width to 64", one_tensor(1)),
    Case("first", "output of a strided stem narrowed", first_conv),
    Case("residual", "residual stream narrowed", residual),
    Case("depthwise", "depthwise channels narrowed (inverted residual, stream 32)", hidden(0), widths=HIDDEN_WIDTHS),
    Case("stream", "stream of inverted residuals narrowed (192 inside)", stream(192), widths=PART_WIDTHS),
    Case("stream-thin", "thin stream of inverted residuals narrowed (96 inside)", stream(96), widths=THIN_WIDTHS),
    Case("gated", "depthwise channels narrowed, with squeeze-and-excitation", hidden(8), widths=HIDDEN_WIDTHS),
    Case("gate-inner", "inner width of squeeze-and-excitation narrowed", squeeze_only, widths=(24, 23, *THIN_WIDTHS)),
    Case("grouped", "4 groups, channels per group narrowed", grouped, widths=PART_WIDTHS),
    Case("grouped-thin", "4 groups, few channels per group", grouped, widths=THIN_WIDTHS),
    Case("dense", "growth of a DenseNet-like Concat chain narrowed", concatenated, widths=PART_WIDTHS),
    Case("inception", "branches of an Inception-like Concat narrowed", inception, widths=PART_WIDTHS),
    Case("pooled", "MaxPool and AveragePool between convolutions", pooled),
    Case("head", "channels in front of pooling and the classifier narrowed", head, sizes=(14, 7)),
    Case("transpose", "ConvTranspose and Conv, all narrowed", decoder, sizes=(28, 14)),
    Case("conv1d", "1-D convolutions, all narrowed", conv_chain(1), sizes=(1024, 128)),
    Case("conv3d", "3-D convolutions, all narrowed", conv_chain(3), sizes=(14, 7)),
    matrix_case(fully_connected, (1, 32), "Gemm, all widths narrowed (batch as size)", "gemm"),
    matrix_case(projections, (16, 196), "MatMul hidden width narrowed (tokens as size)", "matmul"),
)
