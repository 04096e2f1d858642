"""Minimize files that a fuzzer makes of random networks, guided by the code that each reaches (atheris, libFuzzer).

    pip install atheris      # wheels for Linux
    python tools/fuzz/fuzz_bytes.py --count 50000 --seed 1

Most changes know protobuf (those of `damage_models.py`), one in four is to the bytes. Files that are written and reach
code which none reached before are changed further. Prints how the runs ended; a file that ended otherwise than it
should goes to the folder of --keep, and the exit code is 1. A crash of native code ends the run, and libFuzzer writes
the file beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import atheris
from google.protobuf.message import DecodeError
from onnx import ModelProto

with atheris.instrument_imports(include=["onnxsqueeze"]):
    import onnxsqueeze.pipeline.minimize  # noqa: F401
    from tests.support.mutants import mutant
    from tools.fuzz.ending import GOOD, Endings, networks

_BYTES = 4  # one change in so many is to bytes
_LONGEST = 1 << 20  # bytes of a file


class _Fuzzer:
    """Counts how files end, and keeps one of each kind that should not be."""

    def __init__(self, folder: Path, keep: Path) -> None:
        self._endings, self._keep = Endings(folder), keep
        self.counts: Counter[str] = Counter()

    def run(self, data: bytes) -> int:
        """Minimize one file; return -1 where it is not worth further changes: nothing gets far with several faults."""
        how = self._endings.of(data)
        self.counts[how] += 1
        if how not in GOOD and self.counts[how] == 1:
            self._keep.mkdir(exist_ok=True)
            path = self._keep / f"{len(self.counts)}.onnx"
            path.write_bytes(data)
            print(f"{path}: {how}", flush=True)
        return -1 if how == "refused" else 0

    def tell(self) -> None:
        """Print the counts."""
        for how, count in self.counts.most_common():
            print(f"{count:8} {how}", flush=True)


def _changed(data: bytes, most: int, seed: int) -> bytes:
    """Return other bytes, mostly of a model with another fault."""
    if seed % _BYTES:
        try:
            changed: bytes = mutant(ModelProto.FromString(data), seed).SerializeToString()
            return changed if len(changed) <= most else data
        except (DecodeError, ValueError, IndexError):  # it is no model any more, or nothing is left of it
            pass
    mutated: bytes = atheris.Mutate(data, most)
    return mutated


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("damaged"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, model in enumerate(networks()):
            (corpus / f"{number}.onnx").write_bytes(model.SerializeToString())
        fuzzer = _Fuzzer(Path(folder), given.keep)

        def one(data: bytes) -> int:
            worth = fuzzer.run(data)
            if sum(fuzzer.counts.values()) == given.count:  # libFuzzer ends the process without a word
                fuzzer.tell()
                os._exit(any(how not in GOOD for how in fuzzer.counts))
            return worth

        options = [f"-seed={given.seed}", f"-max_len={_LONGEST}", "-rss_limit_mb=0", "-mutate_depth=1", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=_changed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
