"""Which units a network has, and what a selection keeps of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import load
from onnxsqueeze.training.units import Floors, measured_latency, select
from onnxsqueeze.units.discovery import units_of
from tests.training.units.removing import minimized, model, random_scores, without


def test_units_of_a_decoder() -> None:
    """Two blocks of 4 heads, 8 dims of queries and keys and 8 of values each, and 128 hidden units; a stream of 32."""
    units = units_of(load(model("gpt2")))
    assert Counter(units.kinds) == {"stream": 32, "head": 8, "dim": 2 * 2 * 32, "hidden": 2 * 128}
    assert [table.shape for table in units.tables] == [(4, 8)] * 4


def test_rotated_dims_leave_in_pairs_from_all_heads() -> None:
    """All layers share one table of angles: 4 pairs of dims; values have 2 groups of 8 dims in each of 2 layers."""
    units = units_of(load(model("llama")))
    assert Counter(units.kinds)["dim"] == 4 + 2 * 2 * 8
    assert [table.shape for table in units.tables] == [(2, 8)] * 2


@pytest.mark.parametrize("name", ["gpt2", "fused", "regnet"])
def test_heads_keep_equally_many_dims(name: str) -> None:
    units = units_of(load(model(name)))
    for seed in range(3):
        removed = select(units, random_scores(units, seed), 0.3 * units.elements)
        gone = units.gone(removed)
        for table in units.tables:
            counts = (~gone[table]).sum(axis=1)
            assert len(set(counts[counts > 0])) <= 1
        assert not (removed & ~gone).any(), "nothing that was chosen is put back"


def test_floors_hold() -> None:
    units = units_of(load(model("gpt2")))
    floors = Floors(units=3, share=0.1, heads=2)
    gone = units.gone(select(units, random_scores(units, 0), 1, floors=floors))
    heads = units.of_kind("head")
    for group in units.groups:
        least = 2 if heads[group[0]] else max(3, int(np.ceil(0.1 * len(group))))
        assert (~gone[group]).sum() == least
    for table in units.tables:
        counts = (~gone[table]).sum(axis=1)
        assert (counts > 0).sum() == 2
        assert set(counts[counts > 0]) == {3}


def test_the_cheapest_leave_first() -> None:
    units = units_of(load(model("mlp")))
    scores = random_scores(units, 3)
    removed = select(units, scores, 0.6 * units.elements, floors=Floors(units=1, share=0))
    ratio = scores / units.cost("parameters")
    assert ratio[removed].max() <= ratio[~removed].min()


def test_outputs_and_inputs_stay() -> None:
    """The ten rows of the last layer are no units, and no class of the graph's outputs is a member of one."""
    units = units_of(load(model("mlp")), columns=False)
    for name in (*units.analysis.graph.outputs, *units.analysis.graph.inputs):
        assert not np.isin(units.analysis.classes_of(name), units.members[1]).any()


def test_columns_that_read_the_input() -> None:
    """Pixels stay in the input, but a layer need not read them."""
    source = model("mlp")
    units = units_of(load(source))
    columns = units.of_kind("column")
    assert columns.sum() == 64
    scores = np.where(columns, random_scores(units, 4), np.inf)
    removed = select(units, scores, 1, floors=Floors(units=20))
    assert removed.sum() == 44
    assert weight_elements(minimized(without(source, units, removed))) == units.left(removed)


def test_positions_leave_with_their_channel_or_alone() -> None:
    """Of 9 positions of each of 6 channels: some channels, and of those that stay some positions."""
    source = model("convolutions")
    units = units_of(load(source), positions=True)
    assert Counter(units.kinds) == {"hidden": 8 + 6 + 16, "column": 54}
    assert Counter(units_of(load(source)).kinds) == {"hidden": 8 + 6 + 16}
    (layer,) = units.gathered
    of = {int(one): int(unit) for unit, one in zip(*units.members, strict=True)}
    removed = np.zeros(len(units), dtype=bool)
    removed[[of[int(layer.read[place])] for place in (0, 9)]] = True  # the first two channels
    channels = minimized(without(source, units, removed))
    assert weight_elements(channels) == units.left(removed)
    assert sorted(units.cost("parameters", removed)[units.of_kind("column")]) == [0] * 18 + [16] * 36
    removed[[of[int(one)] for one in layer.columns[[3, 20, 22, 23, 30, 40, 41, 50]]]] = True
    positions = minimized(without(source, units, removed))
    assert weight_elements(positions) == units.left(removed) == weight_elements(channels) - 7 * 16
    alone = units.read(removed)
    assert not alone[[of[int(one)] for one in layer.columns[:18]]].any(), "what goes with a channel is not read"
    assert alone[[of[int(layer.columns[19])], of[int(layer.read[19])]]].all()


def test_few_positions_are_not_worth_a_gather() -> None:
    """Indices of 50 that stay take more than 3 columns of 16 do."""
    units = units_of(load(model("convolutions")), positions=True)
    removed = np.zeros(len(units), dtype=bool)
    removed[np.nonzero(units.of_kind("column"))[0][:3]] = True
    assert units.left(removed) == units.elements
    removed[np.nonzero(units.of_kind("column"))[0][3]] = True
    assert units.left(removed) == units.elements - 4 * 16


def test_what_cannot_be_masked_blocks_its_stream() -> None:
    """A table of positions that is not trained adds to every channel; without it the channels can leave."""
    dense = load(model("gpt2"))
    table = next(name for name in dense.initializers if name.endswith("wpe.weight"))
    trained = set(dense.initializers) - {table}
    assert Counter(units_of(dense, trained=trained).kinds)["stream"] == 0
    assert Counter(units_of(dense, trained=set(dense.initializers)).kinds)["stream"] == 32


def test_costs() -> None:
    units = units_of(load(model("resnet")))
    macs, parameters = units.cost("macs"), units.cost("parameters")
    assert (macs > 0).all()
    early = np.argmax(macs / parameters)
    assert macs[early] / parameters[early] > 4 * (macs / parameters).min()  # large images in front, small ones behind
    seconds = units.cost({0: 2.0})
    assert (seconds[units.groups[0]] == 2).all()
    others = np.setdiff1d(np.arange(len(units)), units.groups[0])
    rate = seconds[others] / parameters[others]
    assert rate == pytest.approx(2 * len(units.groups[0]) / parameters[units.groups[0]].sum())
    with pytest.raises(UsageError, match="no cost 'time'"):
        units.cost("time")  # type: ignore[arg-type]


def test_measured_latency() -> None:
    """Each layer's units get a time of their own, and the times are a cost."""
    dense = load(model("mlp"))
    units = units_of(dense, columns=False)
    seconds = measured_latency(dense, units, {"x": np.zeros((256, 1, 8, 8), np.float32)})
    assert set(seconds) == set(range(len(units.groups)))
    assert min(seconds.values()) > 0
    assert (units.cost(seconds) > 0).all()


def test_positions_are_counted_at_the_sizes_that_are_given() -> None:
    """All but the vectors of one token multiply twice as often for twice as many tokens."""
    source = load(model("gpt2"))
    (name,) = {dim.dim_param for value in source.skeleton.graph.input for dim in value.type.tensor_type.shape.dim[1:]}
    short, long = (units_of(source, sizes={name: tokens}) for tokens in (5, 10))
    nothing = np.zeros(len(short), dtype=bool)
    assert long.macs_left(nothing) == 2 * short.macs_left(nothing)
