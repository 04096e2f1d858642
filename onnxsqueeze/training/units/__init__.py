"""What units are worth to a module, and how they are removed from it. Which there are, `onnxsqueeze.units` finds."""

from onnxsqueeze.training.units.removal import Removal, remove_units
from onnxsqueeze.training.units.scoring import unit_scores
from onnxsqueeze.units.discovery import units_of
from onnxsqueeze.units.latency import measured_latency
from onnxsqueeze.units.selection import Floors, select
from onnxsqueeze.units.units import Units

__all__ = ["Floors", "Removal", "Units", "measured_latency", "remove_units", "select", "unit_scores", "units_of"]
