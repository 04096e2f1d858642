"""Inputs and outputs of every kind, their names and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import onnxsqueeze as sq
from onnxsqueeze.model.loading import load
from onnxsqueeze.training.export.export import export_masked
from onnxsqueeze.training.module import from_onnx
from tests.training.export.checks import assert_equal, evaluated, exported, metadata, sizes, stored
from tests.training.export.networks import Alone, Containers, Convolutions, DropPath, Shared, Untouched, mlp


def test_batch_is_dynamic_even_from_an_example_of_one(tmp_path: Path) -> None:
    module = Convolutions()
    model = exported(module, torch.randn(1, 3, 9, 9), tmp_path)
    assert sizes(model.graph.input) == {"images": ["batch", 3, 9, 9]}
    assert sizes(model.graph.output) == {"output": ["batch", 5]}
    images = torch.randn(4, 3, 9, 9)
    assert_equal(model, module, {"images": images}, [evaluated(module, images)])


def test_nothing_is_left_over_from_the_export(tmp_path: Path) -> None:
    model = exported(Convolutions(), torch.randn(2, 3, 9, 9), tmp_path)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [len(node.input) for node in convolutions] == [2, 2]
    assert not {"Shape", "Expand", "CastLike", "Dropout"} & {node.op_type for node in model.graph.node}
    assert not any(node.metadata_props for node in model.graph.node)
    assert set(stored(model)) == set(Convolutions().state_dict()) - {"norm.num_batches_tracked"}
    assert metadata(model, "frozen") == ["scale"] and metadata(model, "tied") == []


def test_dropout_is_kept_where_asked_for_and_lets_everything_pass(tmp_path: Path) -> None:
    module = nn.Sequential(Convolutions().train(), DropPath())
    images = torch.randn(2, 3, 9, 9)
    model = exported(module, images, tmp_path, keep_dropout=True)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    values |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    dropouts = [node for node in model.graph.node if node.op_type == "Dropout"]
    ratios = [float(np.frombuffer(values[node.input[1]].raw_data, np.float32)[0]) for node in dropouts]
    assert ratios == [0.25, pytest.approx(0.1)]
    assert all(len(node.input) == 2 for node in dropouts)
    assert_equal(model, module, {"input": images}, [evaluated(module, images)])


def test_shared_layers_and_tables_are_listed_as_tied(tmp_path: Path) -> None:
    module, tokens = Shared(), torch.randint(0, 9, (2, 7))
    model = exported(module, {"tokens": tokens}, tmp_path)
    assert sizes(model.graph.input) == {"tokens": ["batch", 7]}
    tied = metadata(model, "tied")
    assert sorted(map(sorted, tied)) == [["head.weight", "table.weight"], ["layer.bias"], ["layer.weight"]]
    assert all(group[0] in stored(model) for group in tied)
    assert_equal(model, module, {"tokens": tokens}, [evaluated(module, tokens)])


def test_parameters_that_are_not_trained_are_listed_as_frozen(tmp_path: Path) -> None:
    module = mlp()
    module[0].requires_grad_(False)
    assert metadata(exported(module, torch.randn(2, 8), tmp_path), "frozen") == ["0.weight", "0.bias"]
    module.requires_grad_(False)  # put away for inference
    assert metadata(exported(module, torch.randn(2, 8), tmp_path), "frozen") == []


def test_containers_keywords_and_constants(tmp_path: Path) -> None:
    module = Containers()
    first, second, last = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 5)
    inputs = {"first": first, "pair": (second, {"last": last}), "mode": "difference"}
    model = exported(module, inputs, tmp_path)
    assert list(sizes(model.graph.input)) == ["first", "pair_0", "pair_1_last"]
    assert sizes(model.graph.output) == {"mixed": ["batch", 3], "rest_0": ["batch", 5], "rest_2": ["batch"]}
    feeds = {"first": first, "pair_0": second, "pair_1_last": last}
    assert_equal(model, module, feeds, [first - second, last * 2, last.argmax(-1)])


def test_outputs_that_are_inputs_or_equal_have_names_of_their_own(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    model = exported(Untouched(), x, tmp_path, input_names=["a"], output_names=["b", "c", "d"])
    assert list(sizes(model.graph.input)) == ["a"] and list(sizes(model.graph.output)) == ["b", "c", "d"]
    assert_equal(model, Untouched(), {"a": x}, [x, 2 * x, 2 * x])


def test_sizes_can_be_chosen(tmp_path: Path) -> None:
    layer, x = nn.Linear(4, 3), torch.randn(2, 5, 4)
    model = exported(layer, x, tmp_path, dynamic_shapes={"input": {0: "many", 1: torch.export.Dim("tokens")}})
    assert sizes(model.graph.input) == {"input": ["many", "tokens", 4]}
    assert set(stored(model)) == {"weight", "bias"}
    model = exported(layer, x, tmp_path, dynamic_shapes={}, opset=18)
    assert sizes(model.graph.input) == {"input": [2, 5, 4]}
    assert model.opset_import[0].version == 18


def test_batch_that_is_always_one_stays_fixed(tmp_path: Path) -> None:
    assert sizes(exported(Alone(), torch.randn(1, 3), tmp_path).graph.input) == {"x": [1, 3]}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_types(tmp_path: Path, dtype: torch.dtype) -> None:
    module = mlp().to(dtype)
    arrays = stored(exported(module, torch.randn(2, 8, dtype=dtype), tmp_path))
    expected = module[0].weight.detach()
    np.testing.assert_array_equal(arrays["0.weight"].astype(np.float64), expected.double().numpy())


def test_module_made_from_onnx_is_written_under_its_masks(tmp_path: Path) -> None:
    module = from_onnx(exported(mlp(), torch.randn(2, 8), tmp_path))
    mask = torch.rand(16, 8) > 0.5
    module.set_masks({"0.weight": mask})
    path = export_masked(module, (), tmp_path / "again.onnx")
    array = load(path).initializers["0.weight"].array
    assert (array[~mask.numpy()] == 0).all() and array[mask.numpy()].all()


def test_large_models_get_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(64, 64)
    for name in ("model.loading", "model.saving", "verification.sessions"):
        monkeypatch.setattr(f"onnxsqueeze.{name}.MAX_PROTO_BYTES", 4096)
    path = export_masked(module, torch.randn(2, 64), tmp_path / "large.onnx")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    np.testing.assert_array_equal(load(path).initializers["weight"].array, module.weight.detach().numpy())


def test_random_numbers_of_the_caller_go_on_as_they_would(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    with pytest.raises(sq.UsageError):
        export_masked(nn.Sequential(nn.Dropout(0.5), Alone()), torch.zeros(2, 3), tmp_path / "x.onnx")
    assert torch.equal(torch.randn(3), expected)
