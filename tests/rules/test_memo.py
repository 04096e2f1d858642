"""What a rule remembers: once for each question and context, under the function itself, with the function's type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxsqueeze
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.contract import Context, Refusal
from onnxsqueeze.rules.memo import per_context, per_node, per_tensor, refusal_of, view_or_error

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
memo (float[N, 4] x) => (float[N, 4] y) { h = Relu (x)  y = Tanh (h) }"""

LAYERS = """<ir_version: 8, opset_import: ["" : 17]>
layers (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul (x, w) }"""


def context() -> Context:
    """Return what is known of a graph of two nodes before anything was done."""
    return Context(Graph(load(onnx.parser.parse_model(MODEL))))


def test_once_for_each_node_and_context() -> None:
    calls: list[str] = []

    @per_node
    def found(node: Node, context: Context) -> str:
        calls.append(node.op)
        return f"{node.op} {len(calls)}"

    one, other = context(), context()
    first, second = one.graph.nodes
    assert [found(first, one), found(second, one), found(first, one)] == ["Relu 1", "Tanh 2", "Relu 1"]
    assert found(other.graph.nodes[0], other) == "Relu 3"
    assert [found(first, one), calls] == ["Relu 1", ["Relu", "Tanh", "Relu"]]


def test_contexts_of_one_graph_share_nothing() -> None:
    @per_context
    def shared(context: Context) -> list[str]:
        return []

    graph = context().graph
    one, other = Context(graph), Context(graph)
    shared(one).append("remembered")
    assert (shared(one), shared(other)) == (["remembered"], [])


def test_once_for_each_tensor_and_each_choice_of_arguments() -> None:
    calls: list[tuple[str, int]] = []

    @per_tensor
    def found(context: Context, name: str, axis: int) -> int:
        calls.append((name, axis))
        return len(calls)

    own = context()
    assert [found(own, "x", 0), found(own, "x", 1), found(own, "h", 0), found(own, "x", 1)] == [1, 2, 3, 2]
    assert calls == [("x", 0), ("x", 1), ("h", 0)]


def test_nothing_is_remembered_too() -> None:
    calls: list[str] = []

    @per_tensor
    def nothing(context: Context, name: str) -> None:
        calls.append(name)

    own = context()
    for _ in range(2):
        nothing(own, "x")
    assert calls == ["x"]


def test_an_error_is_not_remembered() -> None:
    answers = iter([ValueError("not yet"), None])

    @per_tensor
    def late(context: Context, name: str) -> str:
        error = next(answers)
        if error is not None:
            raise error
        return name

    own = context()
    with pytest.raises(ValueError, match="not yet"):
        late(own, "x")
    assert late(own, "x") == "x"


def test_functions_of_one_name_do_not_meet() -> None:
    def made(answer: str) -> list[str]:
        @per_node
        def view(node: Node, context: Context) -> str:
            return answer

        return [view(node, own) for node in own.graph.nodes]

    own = context()
    assert made("left") + made("right") == ["left", "left", "right", "right"]


def test_a_function_may_ask_for_itself() -> None:
    @per_tensor
    def depth(context: Context, name: str) -> int:
        producer = context.graph.producers.get(name)
        return 0 if producer is None else 1 + depth(context, producer.inputs[0])

    assert depth(context(), "y") == 2


def test_name_and_purpose_stay_those_of_the_function() -> None:
    @per_node
    def width(node: Node, context: Context) -> int:
        """Return the width."""
        return 1

    assert (width.__name__, width.__doc__) == ("width", "Return the width.")


def test_views_are_given_or_refused() -> None:
    def view(node: Node, context: Context) -> int | Refusal:
        return 3 if node.op == "Relu" else Refusal(Reason.UNKNOWN_SHAPE, "no width")

    own = context()
    relu, tanh = own.graph.nodes
    applies, viewed = refusal_of(view), view_or_error(view)
    assert (applies(relu, own), viewed(relu, own)) == (None, 3)
    assert applies(tanh, own) == Refusal(Reason.UNKNOWN_SHAPE, "no width")
    with pytest.raises(RuntimeError, match="no view of y.* no width"):
        viewed(tanh, own)


def test_the_view_of_a_layer_is_made_once_for_each_analysis() -> None:
    first = analyse(load(onnx.parser.parse_model(LAYERS)))
    linear = first.rules[0].linear
    assert linear is not None
    (node,) = first.graph.nodes
    view = linear(node, first.context)
    assert view is linear(node, first.context)
    again = Analysis(first.graph)
    assert view is not linear(node, again.context)
    np.testing.assert_array_equal(view.matrix, linear(node, again.context).matrix)


TYPED = """
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Refusal
from onnxsqueeze.rules.memo import per_context, per_node, per_tensor, view_or_error
@per_node
def view(node: Node, context: Context) -> bytes | Refusal: return b""
@per_tensor
def absorbs(context: Context, name: str, axis: int) -> bool: return True
@per_context
def shared(context: Context) -> dict[str, int]: return {}
def right(node: Node, context: Context) -> tuple[bytes, bool, dict[str, int]]:
    return view_or_error(view)(node, context), absorbs(context, "x", 0), shared(context)
def wrong(node: Node, context: Context) -> bytes:
    absorbs(context, "x", "axis")
    absorbs(context, "x")
    return view(node, context)
"""


def test_types_are_known_to_a_checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options of `mypy --strict onnxsqueeze`, so that what that has left in its cache is used."""
    api = pytest.importorskip("mypy.api")
    root = Path(onnxsqueeze.__file__).resolve().parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setenv("MYPYPATH", str(root))
    source = tmp_path / "typed.py"
    source.write_text(TYPED)
    output, errors, _ = api.run(["--strict", str(source)])
    places = [line.split(":")[1] for line in output.splitlines() if ": error:" in line]
    assert places == ["14", "15", "16"], output + errors
