"""Minimize damaged copies of random networks: each is refused in one line, or comes out as a model that can be written.

    python tools/fuzz/damage_models.py --count 50000 --seed 0

Prints how the runs ended. A file that ended otherwise, or took more than ten seconds, is written to the folder of
--keep, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

import onnxsqueeze
from onnxsqueeze.errors import SqueezeError
from onnxsqueeze.model.saving import save
from tests.end_to_end.random_networks.generator import random_network
from tests.end_to_end.random_networks.token_generator import random_token_network
from tests.support.mutants import mutant

_SECONDS = 10
_NETWORKS = 40  # of each generator
_FORESEEN = (1, 2, 3)


class _TooLongError(BaseException):
    """Is raised by the alarm clock."""


def ended(model: onnx.ModelProto, folder: Path) -> str:
    """Return how minimizing a model ends: "written", "refused", or what else."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    signal.alarm(_SECONDS)
    try:
        result = onnxsqueeze.minimize(path, verify=False)
        result.report.to_dict()
        save(result.minimized, folder / "out.onnx")
    except SqueezeError as error:
        return "refused" if error.exit_code in _FORESEEN and "\n" not in str(error) else f"refused oddly: {error}"
    except _TooLongError:
        return "more than ten seconds"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split()):.100}"
    finally:
        signal.alarm(0)
    return "written"


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("damaged"))
    given = parser.parse_args()

    def ring(*_: Any) -> None:
        raise _TooLongError

    signal.signal(signal.SIGALRM, ring)
    networks = [draw(seed).model for seed in range(_NETWORKS) for draw in (random_network, random_token_network)]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seed, given.seed + given.count):
            model = mutant(networks[seed % len(networks)], seed)
            how = ended(model, Path(folder))
            counts[how] += 1
            if how not in ("written", "refused") and counts[how] == 1:
                given.keep.mkdir(exist_ok=True)
                (given.keep / f"{seed}.onnx").write_bytes(model.SerializeToString())
                print(f"{seed}: {how}", flush=True)
    for how, count in counts.most_common():
        print(f"{count:8} {how}")
    sys.exit(any(how not in ("written", "refused") for how in counts))


if __name__ == "__main__":
    main()
