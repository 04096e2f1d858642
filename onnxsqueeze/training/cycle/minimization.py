"""From a masked network to the one that the next cycle trains and the one to deploy, both compared with it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxsqueeze.model.compensated_function import with_definition
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.model import Model
from onnxsqueeze.pipeline.minimize import minimize
from onnxsqueeze.training.cycle.front import MINIMIZED
from onnxsqueeze.training.cycle.workdir import Workdir
from onnxsqueeze.verification import verify
from onnxsqueeze.verification.report import VerificationError

NETWORK = "network.onnx"


@dataclass(frozen=True)
class Sizes:
    """The weight elements of minimized.onnx and of network.onnx."""

    elements: int
    network_elements: int


def write_minimized(workdir: Workdir, masked: str, folder: str, round_to: str | int) -> Sizes:
    """Minimize a masked network and write both forms of the result.

    The next cycle starts from the fewest elements, with narrowed normalisations as functions, which a later run can
    narrow further. What is deployed is in standard operators, and rounded to what runs fast if that is asked for.

    Args:
        masked: the file of the masked network. folder: where to write to. Both are names in the workdir.

    Raises:
        VerificationError: when one of them does not compute what the masked network computes; nothing is written.
    """
    original, path = with_definition(workdir.load_model(masked)), str(workdir.path(masked))
    network = _network(original, path)
    deployed = minimize(path, round_to=round_to, verify=False).minimized
    if not _same(network, deployed):
        _compare(original, deployed, path, MINIMIZED)
    workdir.save_model(f"{folder}/{NETWORK}", network)
    workdir.save_model(f"{folder}/{MINIMIZED}", deployed)
    return Sizes(weight_elements(deployed), weight_elements(network))


def write_network(workdir: Workdir, masked: str, name: str) -> str:
    """Minimize a masked network as far as the next training needs it, and return the name of what is written.

    Raises:
        VerificationError: when it does not compute what the masked network computes; nothing is written.
    """
    original = with_definition(workdir.load_model(masked))
    return workdir.save_model(name, _network(original, str(workdir.path(masked))))


def _network(original: Model, path: str) -> Model:
    """Return the fewest elements that compute the same as a file, in operators that can be narrowed again."""
    network = minimize(path, layernorm="function", round_to=1, verify=False).minimized
    _compare(original, network, path, NETWORK)
    return network


def _compare(original: Model, smaller: Model, path: str, kind: str) -> None:
    report = verify(original, smaller)
    if not report.passed:
        where = f" (first at {report.first_deviating})" if report.first_deviating else ""
        raise VerificationError(
            f"{path}: minimized to a different function, {kind} is not written: {report.reason}{where}; "
            "everything until then is kept",
            report,
        )


def _same(one: Model, other: Model) -> bool:
    """Whether two models are equal to the last byte."""
    return (
        one.skeleton.SerializeToString(deterministic=True) == other.skeleton.SerializeToString(deterministic=True)
        and one.initializers.keys() == other.initializers.keys()
        and all(
            initializer.array.dtype == other.initializers[name].array.dtype
            and initializer.array.shape == other.initializers[name].array.shape
            and initializer.array.tobytes() == other.initializers[name].array.tobytes()
            for name, initializer in one.initializers.items()
        )
    )
