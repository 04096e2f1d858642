"""A rule that fails costs its node, and nothing else: one is planted for each function of the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.cli.main import main
from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules import registry
from onnxsqueeze.rules.contract import OpRule, ScoreRows
from onnxsqueeze.rules.guard import STRICT, guarded
from onnxsqueeze.rules.lessons import RuleFailed

HIDDEN, LIVE = 8, 3  # units of each hidden layer, and how many of them are neither dead nor constant
CULPRIT = "culprit"


@pytest.fixture(autouse=True)
def forgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs go on, as a user's do."""
    monkeypatch.delenv(STRICT)


class Network:
    """``y = MLP(x) + other(x)``: a part in which channels go whatever happens, and one with the rule that fails."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, Any] = {}
        self.sound = self.two_layers("sound")

    def store(self, array: Any) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors[name] = np.asarray(array)
        return name

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
        return output

    def layer(self, x: str, weight: Any, name: str = "", op: str = "Gemm") -> str:
        vectors = [] if op == "MatMul" else [self.store(np.ones(weight.shape[1], np.float32))]
        return self.add(op, x, self.store(weight), *vectors, name=name)

    def weights(self, size: int = 4) -> tuple[Any, Any]:
        """Return those of a layer with two constant units, and of one behind it that does not read three of them."""
        inner = self.random.uniform(0.1, 1, (size, HIDDEN)).astype(np.float32)
        outer = self.random.uniform(0.1, 1, (HIDDEN, size)).astype(np.float32)
        inner[:, [1, 7]] = 0
        outer[[0, 4, 6]] = 0
        return inner, outer

    def two_layers(self, name: str, *between: str, last: str = "") -> str:
        """Append a layer, some nodes, and a layer; ``name`` is that of the first one of the nodes."""
        inner, outer = self.weights()
        hidden = self.layer("x", inner)
        for place, op in enumerate(between or ("Relu",)):
            hidden = self.add(op, hidden, name=name if place == 0 else "")
        return self.layer(hidden, outer, name=last)

    def model(self, other: str) -> ModelProto:
        sum_of_both = helper.make_node("Add", [self.sound, other], ["y"])
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
        stored = [numpy_helper.from_array(array, name) for name, array in self.tensors.items()]
        graph = helper.make_graph([*self.nodes, sum_of_both], "two parts", values[:1], values[1:], stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def activated() -> ModelProto:
    """The culprit is a Relu between two layers."""
    network = Network()
    return network.model(network.two_layers(CULPRIT))


def untouched() -> ModelProto:
    """The culprit is a Relu around which nothing can go."""
    network = Network()
    dense = network.random.uniform(0.1, 1, (4, 4)).astype(np.float32)
    return network.model(network.layer(network.add("Relu", "x", name=CULPRIT), dense))


def chain(second: str, *between: str) -> ModelProto:
    """A layer that is left a constant hands it on to the culprit: a layer, or what carries it on to one."""
    network = Network()
    inner, outer = network.weights()
    hidden = network.add("Relu", network.layer("x", inner))
    hidden = network.layer(hidden, np.concatenate([outer, outer], axis=1), op="MatMul")
    for op in between:
        hidden = network.add(op, hidden, name=CULPRIT)
    outer = network.random.uniform(0.1, 1, (8, 4)).astype(np.float32)
    return network.model(network.layer(hidden, outer, name="" if between else CULPRIT, op=second))


def normalized() -> ModelProto:
    """The culprit reads what a norm makes of constants."""
    network = Network()
    inner, outer = network.weights()
    hidden = network.layer("x", inner)
    hidden = network.add("LayerNormalization", hidden, network.store(np.ones(HIDDEN, np.float32)))
    return network.model(network.layer(hidden, outer, name=CULPRIT))


def joined() -> ModelProto:
    """The culprit makes what a branch that became constant is added to."""
    network = Network()
    inner, outer = network.weights()
    constant = network.layer(network.add("Relu", network.layer("x", np.zeros((4, HIDDEN), np.float32))), outer)
    culprit = network.layer(network.add("Relu", network.layer("x", inner)), outer, name=CULPRIT)
    return network.model(network.add("Softplus", network.add("Add", culprit, constant)))


def computed() -> ModelProto:
    """The culprit computes a weight of constants."""
    network = Network()
    inner, outer = network.weights()
    weight = network.add("Neg", network.store(outer), name=CULPRIT)
    return network.model(network.add("MatMul", network.add("Relu", network.layer("x", inner)), weight))


def transposed() -> ModelProto:
    """The culprit turns the first weight of two layers."""
    network = Network()
    inner, outer = network.weights()
    weight = network.add("Transpose", network.store(inner.T.copy()), name=CULPRIT)
    return network.model(network.layer(network.add("Relu", network.add("MatMul", "x", weight)), outer))


def reshaped() -> ModelProto:
    """The culprit gives the hidden units an axis of their own, of a size that a reader expects."""
    network = Network()
    inner, outer = network.weights()
    hidden = network.add("Relu", network.layer("x", inner))
    shape = network.store(np.array([-1, HIDDEN], np.int64))
    return network.model(network.layer(network.add("Reshape", hidden, shape, name=CULPRIT), outer))


@dataclass(frozen=True)
class Planted:
    """A function of the record that fails: where, whether channels around it stay with a reason, for which rounding."""

    model: Callable[[], ModelProto]
    op: str = "Relu"
    felt: bool = True
    round_to: str | int = "auto"


PLANTED = {
    "evaluate": Planted(computed, "Neg", felt=False),
    "infer": Planted(reshaped, "Reshape"),
    "applies": Planted(activated),
    "forward": Planted(activated),
    "link": Planted(activated),
    "need": Planted(activated),
    "repair": Planted(activated),
    "absorbs": Planted(lambda: chain("Gemm"), "Gemm"),
    "reconstructs": Planted(normalized, "Gemm", round_to=1),
    "carries": Planted(lambda: chain("Gemm", "Identity"), "Identity"),
    "adopts": Planted(joined, "Gemm"),
    "alignment": Planted(activated),
    "worthwhile": Planted(activated),
    "parameters": Planted(activated),
    "linear": Planted(lambda: chain("Gemm"), "Gemm"),
    "cancels": Planted(activated),
    "permutes": Planted(transposed, "Transpose", felt=False),
    "requested": Planted(untouched, felt=False),
    "dispatch": Planted(lambda: chain("MatMul"), "MatMul"),
}
ELSEWHERE = {
    *("contracts", "moved_back", "sliced_from", "patches", "scales", "adds_constant", "optional_bias", "expects"),
    *("codes", "element_type", "products", "specials"),
}
"""Those that training alone asks, or only of certain graphs."""


def plant(monkeypatch: pytest.MonkeyPatch, op: str, name: str, raised: Callable[[], Exception]) -> None:
    """Let a function of the rules of an operator fail for the node that is called ``culprit``."""

    def failing(rule: OpRule) -> OpRule:
        right = getattr(rule, name)

        def fail(node: Node, *arguments: Any) -> Any:
            if node.label == CULPRIT:
                raise raised()
            return right(node, *arguments) if right is not None else _NOTHING[name]

        return guarded(replace(rule, **{name: fail}))

    monkeypatch.setitem(registry._RULES, ("", op), [failing(rule) for rule in registry._RULES["", op]])


_NOTHING: dict[str, Any] = {
    "alignment": (1, 1),
    "applies": None,
    "requested": False,
    "cancels": (),
    "worthwhile": (),
}


def widths(model: ModelProto) -> list[tuple[int, ...]]:
    return [tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 2]


def outputs(model: ModelProto) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)}
    return session.run(None, feeds)[0]


def test_every_function_of_the_record_is_planted_or_asked_elsewhere() -> None:
    no_functions = {"op", "domain", "since", "until", "shape_input", "narrows", "traits", "beside", "variants"}
    assert PLANTED.keys() | ELSEWHERE | {"rows"} == {field.name for field in fields(OpRule)} - no_functions


@pytest.mark.parametrize("name", sorted(PLANTED.keys() | ELSEWHERE))
def test_every_function_of_the_record_is_guarded(name: str) -> None:
    def fail(*arguments: Any) -> Any:
        raise AttributeError("no such thing")

    node = analyse(load(activated())).graph.nodes[1]
    with pytest.raises(RuleFailed) as raised:
        getattr(guarded(OpRule("Relu", **{name: fail})), name)(node, None)
    assert (raised.value.node, raised.value.failure.callback) == (1, name)
    assert isinstance(raised.value.__cause__, AttributeError)


@pytest.mark.parametrize("name", PLANTED)
def test_a_function_that_fails_costs_its_node(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = PLANTED[name]
    model = planted.model()
    plant(monkeypatch, planted.op, name, lambda: KeyError("no such thing"))
    result = sq.minimize(model, round_to=planted.round_to)
    report = result.report
    assert report.verification is not None and report.verification.passed
    assert (4, LIVE) in widths(result.model), "other channels stayed"
    np.testing.assert_allclose(outputs(result.model), outputs(model), rtol=1e-4)
    line = f"internal error in the rule of {planted.op} ({CULPRIT}): KeyError: 'no such thing'; the channels around it"
    assert [warning for warning in report.warnings if warning.startswith(line)] != []
    (failure,) = report.failures
    assert (failure.callback, failure.node) == (name, CULPRIT)
    assert "in fail\n" in failure.traceback
    assert (f"internal error in the rule of {planted.op}" in report.stayed) == planted.felt


@pytest.mark.parametrize("name", PLANTED)
def test_it_stays_an_error_on_request(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STRICT, "1")
    model = PLANTED[name].model()
    plant(monkeypatch, PLANTED[name].op, name, lambda: KeyError("no such thing"))
    with pytest.raises(KeyError, match="no such thing"):
        sq.minimize(model, round_to=PLANTED[name].round_to)


@pytest.mark.parametrize("raised", [AssertionError, ValueError, IndexError, RecursionError, ZeroDivisionError])
def test_errors_that_nobody_foresaw(raised: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "Relu", "forward", raised)
    (failure,) = sq.minimize(activated(), verify=False).failures
    assert failure.error == raised.__name__


@pytest.mark.parametrize("raised", [KeyboardInterrupt, MemoryError, UsageError])
def test_errors_that_are_not_the_rule_s(raised: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "Relu", "forward", raised)
    with pytest.raises(raised):
        sq.minimize(activated(), verify=False)


def test_what_cannot_be_computed_of_constants_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "Neg", "evaluate", ValueError)
    assert sq.minimize(computed()).failures == ()


def test_every_node_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is learned of in a round of its own; then nothing is left to be minimized."""
    model = activated()
    for node in model.graph.node:
        node.name = CULPRIT
    for op, name in (("Gemm", "link"), ("Relu", "need"), ("Add", "forward")):
        plant(monkeypatch, op, name, KeyError)
    result = sq.minimize(model)
    assert len(result.report.failures) == len({node.op_type for node in model.graph.node})
    assert widths(result.model) == widths(model)


def test_a_rule_that_always_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding out each node by itself would take as many attempts as there are nodes."""
    network = Network()
    other = network.two_layers(CULPRIT, *["Tanh"] * 20)
    for node in network.nodes:
        node.name = CULPRIT if node.op_type == "Tanh" else node.name
    plant(monkeypatch, "Tanh", "link", KeyError)
    analysis = analyse(load(network.model(other)))
    assert len(analysis.context.learned.failed) == 8
    assert sum(node.failed for node in analysis.graph.nodes) == 20


def test_the_one_who_raises_may_not_be_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Identity says that it carries the channels to an axis that there is not: whoever reads it is left alone."""
    rules = [guarded(replace(rule, carries=lambda *_: 99)) for rule in registry._RULES["", "Identity"]]
    gemm = registry._RULES["", "Gemm"][0]
    right = gemm.absorbs
    assert right is not None

    def absorbs(node: Node, context: Any, position: int, axis: int) -> bool:
        return bool(context.shape(node.inputs[position])[axis]) and right(node, context, position, axis)

    monkeypatch.setitem(registry._RULES, ("", "Identity"), rules)
    monkeypatch.setitem(registry._RULES, ("", "Gemm"), [guarded(replace(gemm, absorbs=absorbs))])
    model = chain("Gemm", "Identity")
    result = sq.minimize(model)
    assert [failure.operator for failure in result.failures] == ["Gemm"]
    assert (4, LIVE) in widths(result.model)
    np.testing.assert_allclose(outputs(result.model), outputs(model), rtol=1e-4)


def test_records_within_the_record_are_guarded() -> None:
    def fail(*arguments: Any) -> bool:
        raise KeyError

    rule = guarded(OpRule("Softmax", rows=ScoreRows(finite=fail)))
    node = analyse(load(activated())).graph.nodes[0]
    with pytest.raises(RuleFailed) as raised:
        rule.rows.finite(node, None)  # type: ignore[arg-type]
    assert raised.value.failure.callback == "rows.finite"
    assert rule.forward is OpRule("").forward


@pytest.mark.parametrize("name", ["parameters", "linear"])
def test_a_rule_that_fails_once_the_model_is_there_leaves_its_row_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = False

    def raised() -> Exception:
        return KeyError("late")

    model = chain("Gemm")
    right = getattr(registry._RULES["", "Gemm"][0], name)

    def late(node: Node, *arguments: Any) -> Any:
        if made and node.label == CULPRIT:
            raise raised()
        return right(node, *arguments)

    rule = guarded(replace(registry._RULES["", "Gemm"][0], **{name: late}))
    monkeypatch.setitem(registry._RULES, ("", "Gemm"), [rule])
    result = sq.minimize(model)
    made = True
    assert result.failures == ()
    assert CULPRIT not in {layer.name for layer in result.report.layers}
    assert len(result.report.layers) == 4
    (line,) = result.report.warnings
    assert line.endswith("KeyError: 'late'; the report has no row for it; please report it with the model")


def test_the_first_analysis_of_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "Relu", "forward", KeyError)
    model = load(activated())
    analysis = analyse(model)
    (index,) = analysis.context.learned.failed
    assert analysis.graph.nodes[index].label == CULPRIT and analysis.graph.nodes[index].failed
    assert analysis.graph.readers[analysis.graph.nodes[index].inputs[0]][0][0].failed
    with pytest.raises(RuleFailed, match="internal error in the rule of Relu"):
        Analysis(Graph(model))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a saved network with a culprit."""
    onnx.save(activated(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("command", ["minimize", "inspect"])
def test_the_command_warns_and_ends_well(command: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "Relu", "need", lambda: KeyError("no\nsuch thing"))
    line = (
        "onnxsqueeze: warning: internal error in the rule of Relu (culprit): KeyError: 'no\\nsuch thing'; "
        "the channels around it stay; please report it with the model"
    )
    plain, quiet, verbose = (run(command, path, *option) for option in ([], ["--quiet"], ["--verbose"]))
    assert [each.exit_code for each in (plain, quiet, verbose)] == [0, 0, 0]
    if command == "minimize":
        assert quiet.stderr.splitlines() == [line]
    assert line in plain.stderr and "Traceback" not in plain.stderr
    assert quiet.stdout == ""
    assert "Traceback (most recent call last):" in verbose.stderr
    assert "internal error in the rule of Relu" in verbose.stdout
    assert path.with_name("net.min.onnx").exists() == (command == "minimize")


def test_the_json_has_the_traceback(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    plant(monkeypatch, "Relu", "repair", KeyError)
    target = path.with_name("report.json")
    assert run("minimize", path, "--quiet", "--json", target).exit_code == 0
    report = json.loads(target.read_text())
    assert report["failures"][0]["callback"] == "repair"
    assert "Traceback" in report["failures"][0]["traceback"]
    assert len(report["warnings"]) == 1


def test_the_command_fails_on_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STRICT, "1")
    plant(monkeypatch, "Relu", "need", KeyError)
    failed = run("minimize", path)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("onnxsqueeze: error: internal error: KeyError")
