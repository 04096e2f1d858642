"""The fuzzers themselves: what they make, and what they say of what goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxsqueeze.errors import InvalidModelError
from tests.support.mutants import mutant
from tools.fuzz import ending, mutate_rules, surviving
from tools.fuzz.breaking import mutants
from tools.fuzz.checking import NAMES, RUNNING, Verdict, written
from tools.fuzz.codes import FORMS
from tools.fuzz.covering import reached, unnoticed

Told = Callable[[str | Verdict], None]
ON_CODES = {
    *("DynamicQuantizeLinear", "QuantizeLinear", "QLinearMatMul", "MatMulNBits", "MatMulInteger"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
}

SYMMETRIC = 28
"""A graph whose blocks of codes have no zero points."""


@pytest.mark.parametrize("step", [RUNNING, "minimizing"])
def test_a_process_that_dies_is_one_verdict(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the original it says nothing; of anything else it is a failure. The other variations go on."""

    def dies(seed: int, names: Collection[str], tell: Told) -> None:
        for name in names:
            tell(step)
            if name == "extreme":
                os._exit(9)
            tell(Verdict(seed, name, ""))

    monkeypatch.setattr(surviving, "judged", dies)
    found = surviving.judged_apart(0, NAMES[:3])
    assert [each.variation for each in found] == list(NAMES[:3])
    failures = [each.failure for each in found]
    assert failures == ["", "" if step == RUNNING else f"{step}: the process died, exit code 9", ""]
    assert not found[1].compared


@pytest.mark.parametrize("form", FORMS)
def test_quantized_forms_hold_codes(form: str) -> None:
    model, feeds = written(20, form)
    assert model is not None
    assert len(feeds) > 2
    assert ON_CODES.intersection(node.op_type for node in model.graph.node)


def test_columns_share_scales_wherever_they_lie() -> None:
    """By size: no column of a block is larger than any of the one before. (Codes around 8 stay as they are.)"""
    model, _ = written(SYMMETRIC, "blocks in an order")
    assert model is not None
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    mixed = 0
    for node in [node for node in model.graph.node if node.op_type == "MatMulNBits"]:
        order, packed = arrays[node.input[4]], arrays[node.input[1]].reshape(len(arrays[node.input[1]]), -1)
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)[:, : order.size]
        sizes = np.abs(codes.astype(int) - 8).sum(0)
        assert not node.input[3]
        assert all(
            sizes[order == block].max() <= sizes[order == block - 1].min() for block in range(1, order.max() + 1)
        )
        mixed += int((np.diff(order) < 0).any())
    assert mixed


def test_how_damaged_files_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, *_ = ending.networks()
    endings = ending.Endings(tmp_path)
    assert endings.of(sound.SerializeToString()) == "written"
    assert endings.of(b"\x00\x01") == "refused"
    assert {endings.of(mutant(sound, seed).SerializeToString()) for seed in range(10)} <= set(ending.GOOD)

    def failing(*_: object, **__: object) -> None:
        raise InvalidModelError("two\nlines")

    monkeypatch.setattr(ending.onnxsqueeze, "minimize", failing)
    assert endings.of(sound.SerializeToString()).startswith("refused oddly")
    monkeypatch.setattr(ending, "_megabytes", lambda: 5000)
    assert endings.of(sound.SerializeToString()) == "5000 MB of memory"


def test_what_is_written_must_be_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, *_ = ending.networks()
    monkeypatch.setattr(ending, "save", lambda model, path: onnx.save(onnx.ModelProto(), path))
    assert ending.Endings(tmp_path).of(sound.SerializeToString()).startswith("written, and not valid")


def test_rules_are_broken_in_each_way() -> None:
    source = "def f(a, b):\n    if a and b:\n        g(1)\n    return min(a, b) if a | b else any(a)\n"
    broken = list(mutants(source))
    ways = {each.said.partition(":")[0] for each in broken}
    assert ways == {"dropped", "turned around", "off by one", "exchanged"}
    assert len({each.source for each in broken} - {source.strip()}) == len(broken)
    assert {each.statement for each in broken} == {2, 3, 4}


def survivors(folder: Path, rule: Path) -> list[tuple[int, str]]:
    """Return the lines of a rule and the changes there that its test does not notice.

    To be called in a process of its own: each of its many forks would have to walk through all that the tests of a
    long run have left in memory.
    """
    known = reached(folder, [rule], ["test_rule.py"])
    assert known is not None
    broken = list(mutants((folder / rule).read_text()))
    return [(each.line, each.said) for each in unnoticed(folder, rule, broken, known[rule], most=9)]


def test_broken_rules_that_no_test_notices(tmp_path: Path) -> None:
    """The second place of the sum may be any, since the test has the same numbers there; the constant is not read."""
    rule = Path("rule.py")
    (tmp_path / rule).write_text(
        "K = 1\n\ndef made():\n    def f(a):\n        return a[0] + a[1]\n    return f\n\nf = made()\n"
    )
    (tmp_path / "test_rule.py").write_text("def test_it():\n    from rule import f\n    assert f([1, 2, 2]) == 3\n")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(survivors, tmp_path, rule).result()
    assert found == [(5, "off by one: 2"), (1, "off by one: 2")]


def test_the_tests_of_a_file_of_rules() -> None:
    found = mutate_rules.tests_for(mutate_rules.ROOT / "onnxsqueeze/operators/movement/grid_sample.py")
    assert "tests/operators/movement/test_grid_sample.py" in found
    assert all((mutate_rules.ROOT / name).is_file() for name in found)
