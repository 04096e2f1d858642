"""Minimize damaged copies of random networks: each is refused in one line, or comes out as a model that is valid.

    python tools/fuzz/damage_models.py --count 50000 --seed 0

Prints how the runs ended. A file that ended otherwise, or took more than ten seconds or 1 GB, is written to the folder
of --keep, and the exit code is 1. `fuzz_bytes.py` beside this looks for such files by what code they reach.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.mutants import mutant
from tools.fuzz.ending import GOOD, Endings, networks


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("damaged"))
    given = parser.parse_args()

    models, counts = networks(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        endings = Endings(Path(folder))
        for seed in range(given.seed, given.seed + given.count):
            model = mutant(models[seed % len(models)], seed)
            how = endings.of(model.SerializeToString())
            counts[how] += 1
            if how not in GOOD and counts[how] == 1:
                given.keep.mkdir(exist_ok=True)
                (given.keep / f"{seed}.onnx").write_bytes(model.SerializeToString())
                print(f"{seed}: {how}", flush=True)
    for how, count in counts.most_common():
        print(f"{count:8} {how}")
    sys.exit(any(how not in GOOD for how in counts))


if __name__ == "__main__":
    main()
