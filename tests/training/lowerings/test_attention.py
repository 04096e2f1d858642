"""Attention operators and rotary embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.module import from_onnx
from tests.support.drawing import Array, Draw, ints
from tests.training.lowerings.checking import Case, Sizes, as_model, check, computed, in_sizes

D = Draw(8)
BATCH, HEADS, GROUPS, QUERIES, KEYS, SIZE, VALUE = 2, 4, 2, 5, 7, 6, 3
MICROSOFT = "com.microsoft"


def by_head(heads: int = HEADS, keys: int = KEYS) -> list[Array]:
    return [
        D.floats(BATCH, HEADS, QUERIES, SIZE),
        D.floats(BATCH, heads, keys, SIZE),
        D.floats(BATCH, heads, keys, VALUE),
    ]


def flat(heads: int = HEADS, keys: int = KEYS, value: int = VALUE) -> list[Array]:
    return [
        D.floats(BATCH, QUERIES, HEADS * SIZE),
        D.floats(BATCH, keys, heads * SIZE),
        D.floats(BATCH, keys, heads * value),
    ]


def attention(operands: list[Any], label: str, opset: int = 23, stored: tuple[int, ...] = (), **more: Any) -> Case:
    settings = {key: more.pop(key) for key in ("outputs", "names", "reference", "differentiable") if key in more}
    return Case("Attention", operands, stored, opset=opset, attributes=more, label=label, **settings)


def finite_mask(*shape: int) -> Array:
    mask = D.floats(*shape)
    mask[..., 1] = -np.inf
    return mask


def open_mask(*shape: int) -> Array:
    mask = D.bools(*shape)
    mask[..., 0] = True
    return mask


def past(heads: int = HEADS, value: int = VALUE) -> list[Array]:
    return [D.floats(BATCH, heads, 2, SIZE), D.floats(BATCH, heads, 2, value)]


COUNTS = {"q_num_heads": HEADS, "kv_num_heads": GROUPS}
STANDARD = [
    attention(by_head(), "plain"),
    attention(by_head(GROUPS), "grouped", scale=0.3),
    attention(flat(), "flat", q_num_heads=HEADS, kv_num_heads=HEADS),
    attention(flat(GROUPS), "flat-grouped", opset=24, **COUNTS),
    attention([*by_head(), finite_mask(QUERIES, KEYS)], "mask"),
    attention([*by_head(), finite_mask(BATCH, HEADS, QUERIES, KEYS)], "learned mask"),
    attention([*by_head(), open_mask(BATCH, 1, QUERIES, KEYS)], "bool mask"),
    attention([*by_head(), open_mask(QUERIES, KEYS)], "stored mask", stored=(3,)),
    attention(by_head(keys=QUERIES), "causal", is_causal=1),
    attention([*by_head(), open_mask(QUERIES, KEYS)], "causal-mask", is_causal=1),
    attention(by_head(GROUPS), "softcap", softcap=1.5),
    attention([*by_head(GROUPS), None, *past(GROUPS)], "past", outputs=3),
    attention([*flat(GROUPS), None, *past(GROUPS)], "past-flat", outputs=3, **COUNTS),
    attention([*by_head(keys=QUERIES), None, *past()], "past-causal", is_causal=1, outputs=3, reference=True),
    attention([*by_head(), open_mask(QUERIES, 4)], "short mask", opset=24, reference=True),
    attention([*by_head(), None, None, None, ints(4, 7)], "lengths", opset=24),
    *(
        attention(
            [*by_head(), finite_mask(QUERIES, KEYS)],
            f"scores {mode}",
            names=("y", "", "", "scores"),
            qk_matmul_output_mode=mode,
            differentiable=mode != 2,
        )
        for mode in (0, 2, 3)
    ),
]


def multi_head(operands: list[Any], label: str, stored: tuple[int, ...] = (), outputs: int = 1, **more: Any) -> Case:
    attributes = {"num_heads": HEADS, **more}
    return Case("MultiHeadAttention", operands, stored, outputs, 17, MICROSOFT, attributes, label=label)


def projected(operands: list[Any], label: str, outputs: int = 1, **more: Any) -> Case:
    stored = tuple(place for place in (1, 2) if operands[place] is not None)
    attributes = {"num_heads": HEADS, **more}
    return Case("Attention", operands, stored, outputs, 17, MICROSOFT, attributes, label=label)


def weights(*sizes: int) -> list[Array]:
    return [D.floats(BATCH, QUERIES, 8), D.floats(8, sum(sizes)) / 2, D.floats(sum(sizes))]


WIDTH = HEADS * SIZE
PADDING = np.array([[1, 1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1]], np.int32)
FUSED = [
    multi_head(flat(), "plain"),
    multi_head([*flat(), D.floats(2 * WIDTH + HEADS * VALUE)], "bias", (3,), scale=0.4),
    multi_head([*flat(), None, PADDING], "padding"),
    multi_head([*flat(), None, np.array([7, 3], np.int32)], "lengths"),
    multi_head([*flat(), None, None, D.floats(1, HEADS, QUERIES, KEYS)], "added"),
    multi_head([flat()[0], *by_head()[1:2], D.floats(BATCH, HEADS, KEYS, SIZE)], "split"),
    multi_head(flat(keys=QUERIES), "causal", unidirectional=1),
    multi_head([*flat(value=SIZE), None, None, None, *past(value=SIZE)], "past", outputs=3),
    projected(weights(WIDTH, WIDTH, WIDTH), "plain"),
    projected(weights(WIDTH, WIDTH, 8), "sizes", qkv_hidden_sizes=[WIDTH, WIDTH, 8], scale=0.2),
    projected(weights(WIDTH, WIDTH, WIDTH), "causal", unidirectional=1),
    projected([*weights(WIDTH, WIDTH, WIDTH), PADDING[:, :QUERIES]], "mask"),
    projected([*weights(WIDTH, WIDTH, WIDTH), np.array([5, 3, 0, 1], np.int32)], "starts"),
    projected([*weights(WIDTH, WIDTH, WIDTH), np.array([5, 3], np.int32)], "ends", unidirectional=1),
    projected([*weights(WIDTH, WIDTH, WIDTH), D.integers(0, 2, BATCH, QUERIES, QUERIES).astype(np.int32)], "rows"),
    projected([*weights(WIDTH, WIDTH, WIDTH), None, D.floats(2, BATCH, HEADS, 3, SIZE)], "past", 2, unidirectional=1),
    projected([*weights(WIDTH, WIDTH, WIDTH), None, None, D.floats(BATCH, HEADS, QUERIES, QUERIES)], "added"),
]
ANGLES, WIDE = D.floats(12, 4), D.floats(12, 8)
TABLES, WIDE_TABLES = [np.cos(ANGLES), np.sin(ANGLES)], [np.cos(WIDE), np.sin(WIDE)]


def grouped(
    label: str, length: int = QUERIES, before: int = 0, room: int = 0, more: list[Any] | None = None, **attributes: Any
) -> Case:
    """``before`` positions are cached in caches with ``room`` for so many."""
    total, size = length + before, 16 if attributes.get("do_rotary") else 8
    packed = attributes.pop("packed", False)
    ends = attributes.pop("ends", [total, total])
    queries = D.floats(BATCH, length, (HEADS + 2 * GROUPS) * size if packed else HEADS * size)
    new = [None, None] if packed else [D.floats(BATCH, length, GROUPS * size) for _ in range(2)]
    cache = [D.floats(BATCH, GROUPS, room or before, size) for _ in range(2)] if before else [None, None]
    lengths = [np.array(ends, np.int32) - 1, np.array(total, np.int32)]
    operands = [queries, *new, *cache, *lengths, *(more or [])]
    while operands[-1] is None:
        operands.pop()
    stored = tuple(place for place in (6, 7, 8) if place < len(operands) and operands[place] is not None)
    settings = {"num_heads": HEADS, "kv_num_heads": GROUPS, **attributes}
    return Case("GroupQueryAttention", operands, stored, 3, 17, MICROSOFT, settings, label=label, fixed=True)


GROUPED = [
    grouped("prompt"),
    grouped("packed", packed=True, scale=0.2),
    grouped("past", length=1, before=4),
    grouped("window", local_window_size=2),
    grouped("softcap", softcap=2.0),
    grouped("smooth", smooth_softmax=1),
    grouped("sink", more=[None, None, None, None, D.floats(HEADS)]),
    grouped("rotary", more=WIDE_TABLES, do_rotary=1),
    grouped("interleaved", more=WIDE_TABLES, do_rotary=1, rotary_interleaved=1),
    grouped("rotary-past", length=1, before=4, more=WIDE_TABLES, do_rotary=1),
    grouped("added", more=[None, None, None, D.floats(1, HEADS, QUERIES, QUERIES)]),
]


def rotary(label: str, data: Array, positions: Array | None, tables: list[Array], **attributes: Any) -> Case:
    operands = [data, *tables, positions] if positions is not None else [data, *tables]
    return Case("RotaryEmbedding", operands, (1, 2), opset=23, attributes=attributes, label=label)


def rotary_microsoft(label: str, data: Array, positions: Array, **attributes: Any) -> Case:
    operands = [data, positions, *TABLES]
    return Case("RotaryEmbedding", operands, (2, 3), 1, 17, MICROSOFT, attributes, label=label)


PLACES = D.integers(0, 12, BATCH, QUERIES)
BY_POSITION = [table[PLACES] for table in TABLES]
ROTATED = [
    rotary("heads", D.floats(BATCH, HEADS, QUERIES, 8), PLACES, TABLES),
    rotary("flat", D.floats(BATCH, QUERIES, HEADS * 8), PLACES, TABLES, num_heads=HEADS),
    rotary("interleaved", D.floats(BATCH, HEADS, QUERIES, 8), PLACES, TABLES, interleaved=1),
    rotary("partial", D.floats(BATCH, HEADS, QUERIES, 11), PLACES, TABLES, rotary_embedding_dim=8),
    rotary("no positions", D.floats(BATCH, HEADS, QUERIES, 8), None, BY_POSITION),
    rotary_microsoft("heads", D.floats(BATCH, HEADS, QUERIES, 8), PLACES),
    rotary_microsoft("flat", D.floats(BATCH, QUERIES, HEADS * 8), PLACES, interleaved=1),
    rotary_microsoft("offset", D.floats(BATCH, QUERIES, HEADS * 8), ints(3)),
    rotary_microsoft("partial", D.floats(BATCH, QUERIES, HEADS * 16), PLACES, num_heads=HEADS, rotary_embedding_dim=8),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes([*STANDARD, *FUSED, *GROUPED, *ROTATED], "batch"), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)


@pytest.mark.parametrize("kind", ["bool", "added"])
def test_query_without_a_key_gives_zeros_and_no_gradient(kind: str) -> None:
    seen = open_mask(QUERIES, KEYS)
    seen[2] = False
    mask = seen if kind == "bool" else np.where(seen, 0.0, -np.inf).astype(np.float32)
    case = attention([*by_head(), mask], "shut", opset=24)
    module = from_onnx(case.model())
    feeds = {name: torch.from_numpy(array) for name, array in case.feeds.items()}
    query = feeds["x0"].requires_grad_()
    (found,) = computed(module, feeds)
    assert not found[:, :, 2].detach().any()
    (gradient,) = torch.autograd.grad(found.square().sum(), query)
    assert torch.isfinite(gradient).all() and not gradient[:, :, 2].any() and gradient[:, :, 1].any()


def test_what_cannot_be_trained_is_said() -> None:
    """Packed operands have no lowering on a CPU."""
    node = helper.make_node("MultiHeadAttention", ["x"], ["y"], domain=MICROSOFT, num_heads=4)
    x = helper.make_tensor_value_info("x", 1, [2, 5, 4, 3, 6])
    graph = helper.make_graph([node], "one", [x], [helper.make_tensor_value_info("y", 1, [2, 5, 24])])
    with pytest.raises(UsageError, match="MultiHeadAttention cannot be trained with packed keys and values"):
        from_onnx(as_model(graph, 17, MICROSOFT))
