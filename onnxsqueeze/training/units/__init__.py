"""Units, the smallest parts of a network that can leave: which there are, what they are worth, which to remove."""

from onnxsqueeze.training.units.discovery import units_of
from onnxsqueeze.training.units.latency import measured_latency
from onnxsqueeze.training.units.removal import Removal, remove_units
from onnxsqueeze.training.units.scoring import unit_scores
from onnxsqueeze.training.units.selection import Floors, select
from onnxsqueeze.training.units.units import Units

__all__ = ["Floors", "Removal", "Units", "measured_latency", "remove_units", "select", "unit_scores", "units_of"]
