"""From a masked network to the one that the next cycle trains and the one to deploy, both compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxsqueeze.model.compensated_function import with_definition
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.pipeline.minimize import minimize
from onnxsqueeze.training.cycle.front import MINIMIZED
from onnxsqueeze.training.cycle.refusal import Accepted, accepted
from onnxsqueeze.training.cycle.workdir import Workdir
from onnxsqueeze.training.module import OnnxModule

NETWORK, REFUSED = "network.onnx", "refused.onnx"


@dataclass(frozen=True)
class Written:
    """What was written of a masked network.

    Attributes:
        elements, network_elements: the weight elements of minimized.onnx and of network.onnx.
        pinned: the tensors that had to be left whole. refusal: why, "" where nothing was refused.
    """

    elements: int
    network_elements: int
    pinned: tuple[str, ...]
    refusal: str = ""


def write_minimized(
    workdir: Workdir, masked: str, folder: str, round_to: str | int, pinned: Sequence[str] = ()
) -> Written:
    """Minimize a masked network and write both forms of the result.

    The next cycle starts from the fewest elements, with narrowed normalisations as functions, which a later run can
    narrow further. What is deployed is in standard operators, and rounded to what runs fast if that is asked for. Where
    a form is refused by verification, the tensors that it was refused for stay whole.

    Args:
        masked: the file of the masked network. folder: where to write to. Both are names in the workdir.
        pinned: tensors to be left whole.
    """
    original, path = with_definition(workdir.load_model(masked)), str(workdir.path(masked))
    network = _network(original, path, pinned)
    deployed = accepted(original, path, network.pinned, network.model, round_to=round_to)
    workdir.save_model(f"{folder}/{NETWORK}", network.model)
    workdir.save_model(f"{folder}/{MINIMIZED}", deployed.model)
    elements, network_elements = weight_elements(deployed.model), weight_elements(network.model)
    return Written(elements, network_elements, deployed.pinned, network.refusal or deployed.refusal)


def write_network(workdir: Workdir, masked: str, name: str, pinned: Sequence[str] = ()) -> Accepted:
    """Minimize a masked network as far as the next training needs it, and write what comes out."""
    original = with_definition(workdir.load_model(masked))
    network = _network(original, str(workdir.path(masked)), pinned)
    workdir.save_model(name, network.model)
    return network


def stored_elements(module: OnnxModule) -> int:
    """Return the weight elements that the network of a module with its masks would have in a file."""
    return weight_elements(
        minimize(to_proto(module.write_back()), layernorm="function", round_to=1, verify=False).minimized
    )


def _network(original: Model, path: str, pinned: Sequence[str]) -> Accepted:
    """Return the fewest elements that compute the same as a file, in operators that can be narrowed again."""
    return accepted(original, path, pinned, layernorm="function", round_to=1)
