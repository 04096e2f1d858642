"""MNIST and CIFAR-10 from local files, split into training, validation and test.

Every choice is made on the validation images, which are taken from the training files; the test images are for the
figure at the end.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

VALIDATION = 5_000
_SPLIT_SEED = 0  # the split is the same for every seed of a recipe, so that their figures can be compared


@dataclass(frozen=True)
class Images:
    """Images as float32 [samples, channels, height, width] and their labels as int64 [samples]."""

    inputs: Tensor
    labels: Tensor

    def flattened(self) -> Images:
        """Return the same images as rows [samples, channels * height * width]."""
        return Images(self.inputs.flatten(1), self.labels)

    def to(self, device: torch.device) -> Images:
        """Return the same images on a device."""
        return Images(self.inputs.to(device), self.labels.to(device))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """The three parts of a data set."""

    training: Images
    validation: Images
    test: Images

    def to(self, device: torch.device) -> Data:
        """Return the same parts on a device."""
        return Data(self.training.to(device), self.validation.to(device), self.test.to(device))

    def flattened(self) -> Data:
        """Return the same parts with images as rows."""
        return Data(self.training.flattened(), self.validation.flattened(), self.test.flattened())


def mnist(folder: Path) -> Data:
    """Read mnist.npz: x_train, y_train, x_test and y_test as uint8 images of 28 x 28."""
    with np.load(_existing(folder / "mnist.npz")) as file:
        training = _scaled(file["x_train"][:, None]), file["y_train"]
        test = _scaled(file["x_test"][:, None]), file["y_test"]
    return _split(*training, *test)


def cifar10(folder: Path) -> Data:
    """Read cifar10_jpeg.npz: for train and test all JPEG files end to end, their offsets, and the labels."""
    with np.load(_existing(folder / "cifar10_jpeg.npz")) as file:
        parts = [
            array
            for part in ("train", "test")
            for array in (_scaled(_decoded(file[f"jpeg_{part}"], file[f"offset_{part}"])), file[f"y_{part}"])
        ]
    return _split(*parts)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise SystemExit(f"{path}: not found; give the folder that holds {path.name} with --data")
    return path


def _decoded(jpeg: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    from PIL import Image

    files = (jpeg[start:end].tobytes() for start, end in zip(offsets[:-1], offsets[1:], strict=True))
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return images.transpose(0, 3, 1, 2)


def _scaled(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 255.0


def _split(inputs: np.ndarray, labels: np.ndarray, test_inputs: np.ndarray, test_labels: np.ndarray) -> Data:
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(inputs))
    held_out, rest = order[:VALIDATION], order[VALIDATION:]
    axes = (0, 2, 3)
    images_of_training = inputs[rest].astype(np.float64)  # float32 loses digits over so many pixels
    mean, deviation = (found(images_of_training, axis=axes, keepdims=True) for found in (np.mean, np.std))

    def images(values: np.ndarray, numbers: np.ndarray) -> Images:
        normed = (values - mean) / deviation
        return Images(torch.from_numpy(normed.astype(np.float32)), torch.from_numpy(numbers.astype(np.int64)))

    return Data(
        images(inputs[rest], labels[rest]), images(inputs[held_out], labels[held_out]), images(test_inputs, test_labels)
    )
