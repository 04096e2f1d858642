"""Bad input: one clear line each, before any work where that is possible, and nothing lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from onnxsqueeze.errors import InvalidModelError, SqueezeError, UsageError
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.training import Phase, SqueezeRelease
from onnxsqueeze.training.cycle import refusal
from onnxsqueeze.verification import verify
from tests.training.cycle.loops import data, dense, evaluate, started, train

X = data()[0]


def begun(workdir: Path, **changes: Any) -> SqueezeRelease:
    loops = {"train": train, "evaluate": evaluate}
    arguments = {"model": dense(), "example_inputs": X[:2], "criterion": "magnitude", **loops, **changes}
    return SqueezeRelease(workdir=workdir, **{"progress": False, **arguments})


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    said = str(error.value)
    assert "\n" not in said
    return said


def eval_mode(module: nn.Module) -> None:
    module.eval()


def swapped(module: nn.Module) -> None:
    name, parameter = next(iter(module.named_parameters()))
    owner = module.get_submodule(name.rpartition(".")[0])
    setattr(owner, name.rpartition(".")[2], nn.Parameter(parameter.detach().clone()))


def halved(module: nn.Module) -> None:
    module.half()


def added(module: nn.Module) -> None:
    module.head = nn.Linear(2, 2)


def diverged(module: nn.Module) -> None:
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))


def unmasked(module: Any) -> None:
    module.set_masks({})


@pytest.mark.parametrize(
    ("misuse", "kind", "said"),
    [
        (eval_mode, UsageError, "left the module in eval mode; call module.train()"),
        (swapped, UsageError, "swapped the parameter .* for another; change the values in place"),
        (halved, UsageError, "to torch.float16 .*; train in autocast instead"),
        (added, UsageError, "added the parameter head.weight"),
        (diverged, SqueezeError, "not finite; lower the learning rate"),
        (unmasked, UsageError, "changed the masks; leave set_masks to the cycle"),
    ],
)
def test_a_loop_that_breaks_the_module(
    tmp_path: Path, misuse: Callable[[nn.Module], None], kind: type[Exception], said: str
) -> None:
    def bad(module: nn.Module, phase: Phase) -> None:
        train(module, phase)
        if phase.cycle == 2:
            misuse(module)

    with pytest.raises(kind, match=f"train, cycle 2, .* phase: .*{said}") as error:
        begun(tmp_path, train=bad).run(cycles=2, max_drop=1.0)
    one_line(error)
    kept = (tmp_path / "cycle-01" / "minimized.onnx").read_bytes()
    found = started(tmp_path).run()  # with a loop that is mended
    assert [point.cycle for point in found.front] == [0, 1, 2]
    assert (tmp_path / "cycle-01" / "minimized.onnx").read_bytes() == kept


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "returned nan for cycle 1: let it return a finite number"),
        (float("inf"), "returned inf for cycle 1"),
        (None, "returned nothing for cycle 1: let it return one number"),
        ("98 %", "returned a str"),
        (torch.zeros(3), "returned a Tensor"),
    ],
)
def test_an_evaluation_that_gives_no_number(tmp_path: Path, value: object, said: str) -> None:
    calls = []

    def bad(module: nn.Module) -> Any:
        calls.append(module.training)
        return evaluate(module) if len(calls) == 1 else value

    with pytest.raises(UsageError, match=said) as error:
        begun(tmp_path, evaluate=bad).run(cycles=1)
    one_line(error)
    assert calls == [False, False]
    trained = []
    SqueezeRelease.resume(tmp_path, lambda *_: trained.append(1), evaluate, progress=False).run()
    assert not trained, "the training of the cycle is not lost"


@pytest.mark.parametrize("value", [np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5]), 1])
def test_numbers_of_all_kinds_are_metrics(tmp_path: Path, value: Any) -> None:
    assert begun(tmp_path, evaluate=lambda module: value).run(cycles=0).metric == float(value)


def test_an_error_of_the_loop_itself_comes_as_it_is(tmp_path: Path) -> None:
    def bad(module: nn.Module, phase: Phase) -> None:
        raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake"):
        begun(tmp_path, train=bad).run(cycles=1)
    assert [point.cycle for point in started(tmp_path).run().front] == [0, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"example_inputs": X[:2, :5]}, r"x has the shape \(2, 5\), the model wants \(.*, 12\)"),
        ({"example_inputs": (X[:2], X[:2])}, "2 given, the model has 1: x"),
        ({"example_inputs": {"image": X[:2]}}, "image given, the model has x"),
        ({"example_inputs": [X[:2].numpy()]}, "holds a ndarray; give tensors"),
        ({"example_inputs": torch.zeros(2, 12, dtype=torch.int64)}, "x is torch.int64, the model wants float32"),
        ({"criterion": "magic"}, "no criterion 'magic'"),
        ({"share": 0.0}, "share=0.0"),
        ({"weigths": 0.2}, "no option 'weigths'; choose of .*weights"),
        ({"train": None}, "train: give a function"),
        ({"evaluate": 0.9}, "evaluate: give a function"),
        ({"model": 3}, "model: give an nn.Module or the path of an ONNX file, not int"),
        ({"device": "abacus"}, "device='abacus': cannot be used"),
        ({"calibration": []}, "calibration: holds no batch"),
        ({"calibration": 3}, "calibration: int is neither"),
        ({"calibration": [(X, X, X)]}, r"a batch must be 1 tensor\(s\)"),
        ({"calibration": X[:8, :5]}, r"calibration: x has the shape \(8, 5\), the model wants \(.*, 12\)"),
        ({"calibration": X[0]}, r"calibration: x has the shape \(12,\)"),
        ({"calibration": X[:8] * torch.tensor(float("nan"))}, "calibration: x holds numbers that are not finite"),
        ({"calibration": torch.zeros(8, 12, dtype=torch.int64)}, "calibration of the shapes .* is torch.int64"),
        ({"dynamic_shapes": {"x": {0: "n"}}}, "dynamic_shapes: an ONNX file says by itself"),
        ({"train": lambda module: None}, r"train: is called as train\(module, phase\), which it does not take"),
        ({"evaluate": lambda module, phase: 0.5}, r"evaluate: is called as evaluate\(module\)"),
        ({"share": "most"}, "share='most': give a number"),
        ({"change": None}, "change=None: give a number"),
        ({"round_to": "x"}, "round_to='x': give 'auto' or a positive number"),
        ({"round_to": 2.5}, "round_to=2.5"),
        ({"weights": "some"}, "weights='some': give a number"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"keep": "x"}, "keep='x': give a list of names"),
        ({"keep": ["pixels"]}, "keep pixels: no tensor of the model has such a name"),
        ({"device": 3.5}, "device='3.5': cannot be used"),
        ({"example_inputs": 3, "model": nn.Linear(12, 4)}, "the example inputs hold no tensor"),
    ],
)
def test_arguments_that_cannot_be_followed(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        begun(tmp_path, **changes)
    one_line(error)
    assert not SqueezeRelease.can_resume(tmp_path)


def test_calibration_data_of_other_kinds(tmp_path: Path) -> None:
    for number, given in enumerate((X.numpy(), X.double(), [{"x": X[:64]}], [(X[:64], X[:64, 0])])):
        begun(tmp_path / str(number), criterion="units", calibration=given).run(cycles=1, target_ratio=1.5)


def test_a_folder_is_wanted() -> None:
    for given in (3, None, ""):
        with pytest.raises(UsageError, match=f"workdir={given!r}: give the path of a folder"):
            SqueezeRelease(dense(), None, train, evaluate, given)  # type: ignore[arg-type]


def test_a_network_that_is_another_one_by_now(tmp_path: Path) -> None:
    begun(tmp_path).run(cycles=1)
    for name in ("cycle-01/network.onnx", "dense.onnx"):
        content = bytearray((tmp_path / name).read_bytes())
        content[-1] ^= 1
        (tmp_path / name).write_bytes(bytes(content))
        with pytest.raises(UsageError, match=f"{name}: is not the file that the run was going on with") as error:
            started(tmp_path)
        one_line(error)
        content[-1] ^= 1
        (tmp_path / name).write_bytes(bytes(content))
    started(tmp_path).run(cycles=2)


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (lambda module, phase: copy.deepcopy(module), "returned another module, which does not count"),
        (lambda module, phase: None, "changed no parameter; make an optimizer"),
    ],
)
def test_a_loop_that_trains_nothing_is_warned_of(tmp_path: Path, loop: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=f"train, cycle 1, squeeze phase: {said}"):
        begun(tmp_path, train=loop, criterion="units").run(cycles=1)


@pytest.mark.filterwarnings("error")
def test_a_loop_that_trains_is_not_warned_of(tmp_path: Path) -> None:
    def returning(module: nn.Module, phase: Phase) -> nn.Module:
        train(module, phase)
        return module

    begun(tmp_path, train=returning).run(cycles=1)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InvalidModelError, match="model.onnx") as error:
        begun(tmp_path / "run", model=tmp_path / "model.onnx")
    one_line(error)


def test_a_workdir_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = []
    with pytest.raises(UsageError, match="the workdir cannot be written to"):
        begun(tmp_path / "file" / "run", evaluate=lambda module: asked.append(1))
    assert not asked


def test_a_workdir_of_another_run(tmp_path: Path) -> None:
    begun(tmp_path).run(cycles=0)
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(UsageError, match="holds a run; go on with"):
        begun(tmp_path)
    assert (tmp_path / "state.json").read_bytes() == before


def test_a_workdir_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run was begun here"):
        SqueezeRelease.resume(tmp_path, train, evaluate)


@pytest.mark.parametrize("blamed", [False, True])
def test_a_wrong_minimization_costs_what_it_was_refused_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blamed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is minimized wrong as long as one tensor loses channels; or, with none to blame, whatever is done."""
    minimize = refusal.minimize
    culprit = first_layer(dense()) if blamed else None
    refused = "1-masked" if blamed else "cycle-01"

    def wrong(source: Any, *, keep: Sequence[str] = (), **options: Any) -> Any:
        result = minimize(source, keep=keep, **options)
        if refused in str(source) and culprit not in keep:
            corrupt(result.minimized)
        return result

    monkeypatch.setattr(refusal, "minimize", wrong)
    found = begun(tmp_path, criterion="units", progress=True).run(cycles=2, target_ratio=4.0)
    assert [point.cycle for point in found.front] == [0, 1, 2]
    said = capfd.readouterr().err
    assert "cycle-01/refused.onnx was minimized to a different function" in said and "please report it" in said
    assert (f"{culprit} stay whole" in said) == (culprit is not None)
    if not blamed:
        folder = tmp_path / "cycle-01"
        assert verify(load(folder / "refused.onnx"), load(folder / "minimized.onnx")).passed
    state = json.loads((tmp_path / "state.json").read_bytes())
    assert state["pinned"] == ([culprit] if culprit else [])
    assert [bool(record["refusal"]) for record in state["records"]] == [False, True, False]


def first_layer(model: ModelProto) -> str:
    """Return the name of the first hidden layer's output."""
    return next(node.output[0] for node in model.graph.node if node.op_type in ("Gemm", "MatMul"))


def corrupt(model: Model) -> None:
    """Turn the sign of one weight."""
    name, initializer = next((name, found) for name, found in model.initializers.items() if found.array.ndim == 2)
    array = initializer.array.copy()
    array[0] = -array[0] - 1
    model.initializers[name] = type(initializer).from_array(name, array)


def test_an_infinite_constant_is_no_training_that_diverged(tmp_path: Path) -> None:
    """As a mask or a maximum has it that starts from minus infinity."""
    model = copy.deepcopy(dense())
    output = model.graph.output[0].name
    writer = next(node for node in model.graph.node if output in node.output)
    writer.output[:] = ["before" if name == output else name for name in writer.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(-np.inf, np.float32), "floor"))
    model.graph.node.append(helper.make_node("Max", ["before", "floor"], [output]))
    assert [point.cycle for point in begun(tmp_path, model=model).run(cycles=1, max_drop=1.0).front] == [0, 1]


def test_a_criterion_with_nothing_to_score(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 12]) for name in "xy"]
    scale = numpy_helper.from_array(np.linspace(1, 2, 12, dtype=np.float32), "scale")
    graph = helper.make_graph(nodes, "scaled", values[:1], values[1:], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UsageError, match="no weight of a linear layer can be scored"):
        begun(tmp_path, model=model, evaluate=lambda module: float(module(X).mean())).run(cycles=1)


def test_the_given_network_is_not_changed(tmp_path: Path) -> None:
    model: ModelProto = copy.deepcopy(dense())
    begun(tmp_path, model=model).run(cycles=1)
    assert model == dense()
