"""Wrong arguments, paths, samples and models: one line on stderr, the documented exit code, nothing written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxsqueeze
from onnxsqueeze.pipeline import search
from tests.support.perceptrons import refused, run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "-"], "-o - is refused: a model is not written to stdout"),
        (["-o", "."], ". is a folder"),
        (["-o", "nowhere/out.onnx"], "nowhere/out.onnx: the output folder nowhere does not exist; create it"),
        (["--json", "nowhere/out.json"], "nowhere/out.json: the folder nowhere does not exist; create it"),
        (["--json", "."], "Invalid value for '--json': File '.' is a directory"),
        (["--json", "net.onnx"], "--json net.onnx would overwrite the model"),
        (["--json", "./net.min.onnx"], "--json net.min.onnx would overwrite the model"),
        (["--samples", "0"], "Invalid value for '--samples': 0 is not in the range x>=1"),
        (["--rtol", "nan"], "Invalid value for '--rtol': nan is not a number of at least 0"),
        (["--atol=-1"], "Invalid value for '--atol': -1.0 is not a number of at least 0"),
        (["--dim", "batch"], "Invalid value for '--dim': 'batch' is not NAME=SIZE"),
        (["--dim", "batch=0"], "Invalid value for '--dim': 'batch=0' is not NAME=SIZE"),
        (["--dim", "batch=2", "--dim", "batch=3"], "Invalid value for '--dim': 'batch' is given twice"),
        (["--dim", "btach=2"], "the model has no dynamic dimension 'btach'; it has 'batch'"),
        (["--dim", "btach=2", "--no-verify"], "the model has no dynamic dimension 'btach'; it has 'batch'"),
        (["--input-shape", "x"], "Invalid value for '--input-shape': 'x' is not NAME:SHAPE"),
        (["--input-shape", "x:1,"], "Invalid value for '--input-shape': 'x:1,' is not NAME:SHAPE"),
        (["--input-shape", "x:1,3"], "input 'x' has the size 4 at axis 1, not 3"),
        (["--layernorm", "fused"], "Invalid value for '--layernorm': 'fused' is not one of 'stock', 'function'"),
        (["--round-to", "0"], "Invalid value for '--round-to': '0' is neither auto nor a number of at least 1"),
        (["--round-to", "automatic"], "Invalid value for '--round-to': 'automatic' is neither auto nor a number"),
        (["--keep", "hiden"], "--keep hiden: no tensor of the model has such a name"),
        (["--inputs", "nowhere.npz"], "Invalid value for '--inputs': File 'nowhere.npz' does not exist"),
        (["--inputs", "net.onnx"], "net.onnx: the samples cannot be read"),
        (["--no-verify", "--samples", "3"], "--no-verify leaves nothing for --samples to do"),
        (["--no-verify", "--input-shape", "x:1,4"], "--no-verify leaves nothing for --input-shape to do"),
        (["--quiet", "--verbose"], "--quiet and --verbose exclude each other"),
        (["--fast"], "No such option '--fast'"),
        (["none*.onnx"], "none*.onnx: no file matches the pattern"),
        (["b.onnx", "-o", "net.onnx"], "net.onnx is no folder; with several files, -o is the folder"),
        (["b.onnx", "-o", "nowhere/out"], "nowhere/out: the folder nowhere does not exist; create it"),
        (["-"], "Invalid value for 'IN.onnx [...]': - is refused: a model is not read from stdin"),
        ([""], "Invalid value for 'IN.onnx [...]': the path is empty"),
        (["--only", "hiden"], "--only hiden: no tensor of the model has such a name"),
    ],
)
def test_wrong_usage(pruned: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(pruned.parent)
    before = pruned.read_bytes()
    assert refused(run("minimize", "net.onnx", *arguments), 2).startswith(message)
    assert pruned.read_bytes() == before
    assert list(pruned.parent.iterdir()) == [pruned]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command; see `onnxsqueeze --help`"),
        (["shrink"], "No such command 'shrink'; see `onnxsqueeze --help`"),
        (["minimize"], "Missing argument 'IN.onnx [...]'; see `onnxsqueeze minimize --help`"),
        (["verify", "a.onnx"], "Missing argument 'B.onnx [...]'; see `onnxsqueeze verify --help`"),
    ],
)
def test_an_incomplete_command(arguments: list[str], message: str) -> None:
    assert refused(run(*arguments), 2) == message


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_input_is_not_replaced_by_any_other_name(pruned: Path, link: Callable[[Path, Path], None]) -> None:
    alias = pruned.with_name("alias.onnx")
    link(pruned, alias)
    before = pruned.read_bytes()
    for target in (pruned, alias, pruned.parent / "." / "net.onnx"):
        message = refused(run("minimize", pruned, "-o", target), 2)
        assert message.endswith("is the input itself; choose another output path, or replace it with --force")
    assert pruned.read_bytes() == before


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((1, 4), np.float32)}, "the samples name 'z', which is no input of the model; it has 'x'"),
        ({"x": np.zeros((1, 3), np.float32)}, "the original refuses your sample 1"),
        ({"x": np.array(["a"])}, "the sample for input 'x' is <U1, but the model takes float32"),
        ({}, "the samples lack the input 'x'"),
    ],
)
def test_samples_that_do_not_fit(pruned: Path, arrays: dict[str, Any], message: str) -> None:
    samples = pruned.with_name("samples.npz")
    np.savez(samples, **arrays)
    assert message in refused(run("minimize", pruned, "--inputs", samples), 2)
    assert not pruned.with_name("net.min.onnx").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"not a model", "is not an ONNX model or is cut short"),
    ],
)
@pytest.mark.parametrize("command", ["minimize", "inspect", "verify"])
def test_an_unreadable_model(pruned: Path, command: str, content: bytes | None, message: str) -> None:
    broken = pruned.with_name("broken.onnx")
    if content is not None:
        broken.write_bytes(content)
    arguments = [command, broken, *([pruned] if command == "verify" else [])]
    assert refused(run(*arguments), 3).startswith(f"{broken}: {message}")
    assert not broken.with_name("broken.min.onnx").exists()


def test_a_truncated_model(pruned: Path) -> None:
    pruned.write_bytes(pruned.read_bytes()[:-30])
    assert "is cut short" in refused(run("minimize", pruned), 3)


def test_a_model_that_the_checker_refuses(dense: Path) -> None:
    model = onnx.load(dense)
    model.graph.node[1].op_type = "Reelu"
    onnx.save(model, dense)
    assert "Reelu" in refused(run("minimize", dense), 3)


def test_an_internal_error_is_one_line_and_verbose_has_the_traceback(
    pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise KeyError("first line\nsecond line")

    monkeypatch.setattr(search, "apply", fail)
    message = refused(run("minimize", pruned), 1)
    assert message.startswith("internal error: KeyError: ")
    assert message.endswith("; run again with --verbose for the traceback")
    verbose = run("minimize", pruned, "--verbose")
    assert verbose.exit_code == 1
    assert verbose.stderr.startswith("Traceback (most recent call last):\n")
    assert list(pruned.parent.iterdir()) == [pruned]


def test_help_documents_every_option_and_exit_code() -> None:
    result = run("minimize", "--help")
    assert result.exit_code == 0
    options = "--output --force --no-verify --rtol --atol --samples --inputs --dim --input-shape --round-to --keep"
    words = "--layernorm --json --quiet --verbose auto|K NAME:SHAPE"
    for word in (*options.split(), *words.split(), "Exit codes:"):
        assert word in result.stdout
    codes = dict(re.findall(r"^    (\d+) +(.+)$", run("--help").stdout, re.MULTILINE))
    assert set(codes) == {"0", "1", "2", "3", "4", "5", "6", "129", "130", "141", "143"}


def test_the_version() -> None:
    assert run("--version").stdout == f"onnxsqueeze, version {onnxsqueeze.__version__}\n"
