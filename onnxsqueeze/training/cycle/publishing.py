"""Write what a reader wants to know of a run: the metrics of each cycle, and the front as data and as pictures."""

from __future__ import annotations

from dataclasses import asdict

from onnxsqueeze.model.saving import save_bytes
from onnxsqueeze.training.cycle.announcing import Announcer
from onnxsqueeze.training.cycle.front import points, to_dict
from onnxsqueeze.training.cycle.plotting import page, picture
from onnxsqueeze.training.cycle.state import State
from onnxsqueeze.training.cycle.workdir import Workdir


def publish(state: State, workdir: Workdir, announcer: Announcer) -> None:
    """Write metrics.json of the last cycle, front.json, front.html, and front.png where matplotlib is installed."""
    record = state.records[-1]
    metrics = {**asdict(record), "drop": state.drop(record), "within": state.within(record)}
    workdir.save_json(f"{workdir.cycle(record.cycle)}/metrics.json", metrics)
    found = points(state, workdir.folder)
    workdir.save_json("front.json", to_dict(found, workdir.folder))
    save_bytes(page(found, state.goal.max_drop), workdir.path("front.html"))
    drawn = picture(found, state.goal.max_drop)
    if drawn is not None:
        save_bytes(drawn, workdir.path("front.png"))
    elif len(state.records) == 1:
        announcer.say("front.png is not drawn, front.html is: pip install onnxsqueeze[plot] for matplotlib")
