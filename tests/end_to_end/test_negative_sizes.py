"""Paddle writes -1 where a dimension is dynamic; every door takes such a file as one of an open batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.samples import read
from onnxsqueeze.training.module import OnnxModule
from tests.squeezing.networks import dependent

ROWS = np.random.default_rng(1).normal(size=(90, 8)).astype(np.float32)


@pytest.fixture
def model() -> onnx.ModelProto:
    found = dependent(np.random.default_rng(0))
    for value in (*found.graph.input, *found.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    return found


def test_minimize_tries_several_batches(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer[:2]:
        array = numpy_helper.to_array(tensor).copy()
        array[..., :4] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    report = sq.minimize(model).report.verification
    assert report is not None
    assert {"x[0]"} == set().union(*report.sizes)


def test_samples_are_no_batches_of_a_fixed_size(model: onnx.ModelProto) -> None:
    found = read({"x": ROWS}, load(model))
    assert (len(found.calibration), len(found.held_out)) == (60, 30)
    assert found.calibration.sizes(load(model).skeleton.graph.input) == {"x[0]": 90}


def test_training_takes_any_batch(model: onnx.ModelProto) -> None:
    assert OnnxModule(load(model))(torch.from_numpy(ROWS[:7])).shape[0] == 7
