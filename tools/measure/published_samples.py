"""Samples made on the spot for published networks: files of the machine, spoken and written documentation.

Nothing is downloaded and nothing is kept: files are those of the Python and the system that this runs on, sentences
are those of their documentation, speech is theirs spoken by espeak-ng, lines are theirs drawn with the fonts of the
machine.
What is to be judged by comes from other files, sentences, voices and fonts than what is chosen by (``apart``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_APART = 4  # one source in so many is kept for judging
_RATE = 16_000
_BLOCK, _SIDE, _PADDING = 4096, 1024, 256  # of magika's configuration: bytes read, bytes fed, and what stands for none
_LARGEST = 1 << 22  # of files whose slices are taken, in bytes
_PER_SUFFIX = 150  # files at most, so that the kinds of which there are most do not crowd out the others
_SENTENCES = 40_000
_STREAM = 16 * _RATE  # samples of a stream of audio
_CHUNK, _CONTEXT = 512, 64  # of silero: what is fed at once, and what is fed again before it
_HEIGHT, _WIDTH = 48, 320  # of lines, as the recognizer is fed
_TIMBRES = ("", "+f2", "+f4", "+m2", "+m5", "+whisper")
_TOKENS = 32


def _is_apart(content: bytes) -> bool:
    """Whether something belongs to what is judged by: the same content always does, wherever it lies."""
    return zlib.crc32(content) % _APART == 0


def _listed(roots: Sequence[Path]) -> Iterator[Path]:
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders.sort()
            yield from (Path(folder) / name for name in sorted(names))


def _drawn(choices: Sequence[str], random: np.random.Generator) -> str:
    return choices[int(random.integers(len(choices)))]


# Files


def files(count: int, seed: int, apart: bool) -> dict[str, Array]:
    """Return what magika feeds of files: the bytes at their beginning and at their end, white space stripped."""
    random = np.random.default_rng(seed)
    paths = _files()
    found: dict[bytes, Array] = {}
    for number in random.permutation(len(paths)):
        content = _sliced(_bytes(paths[number]), random)
        if len(content) >= 8 and _is_apart(content[:_BLOCK]) == apart:
            found.setdefault(content[:_BLOCK], _features(content))
        if len(found) == count:
            break
    return {"bytes": np.stack(list(found.values()))}


@lru_cache
def _files() -> list[Path]:
    """Return files of the machine, not too many of any kind."""
    counts: dict[str, int] = {}
    found = []
    roots = [Path("/usr"), Path("/etc"), Path(sysconfig.get_paths()["purelib"]), Path.cwd()]
    for path in _listed(roots):
        suffix = path.suffix if len(path.suffix) < 8 else ""
        if counts.get(suffix, 0) < _PER_SUFFIX and path.is_file() and not path.is_symlink():
            counts[suffix] = counts.get(suffix, 0) + 1
            found.append(path)
    return found


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_LARGEST)
    except OSError:
        return b""


def _sliced(content: bytes, random: np.random.Generator) -> bytes:
    """Return a third of all files as pieces of them, from some line on: short files are as frequent as long ones."""
    if random.random() > 1 / 3 or len(content) < 64:
        return content
    start = content.rfind(b"\n", 0, int(random.integers(len(content)))) + 1
    return content[start : start + int(2 ** random.uniform(6, 14))]


def _features(content: bytes) -> Array:
    found = np.full(2 * _SIDE, _PADDING, np.int32)
    first = content[:_BLOCK].lstrip()[:_SIDE]
    last = content[-_BLOCK:].rstrip()[-_SIDE:]
    found[: len(first)] = np.frombuffer(first, np.uint8)
    found[2 * _SIDE - len(last) :] = np.frombuffer(last, np.uint8)
    return found


# Sentences


@lru_cache
def sentences(apart: bool) -> tuple[str, ...]:
    """Return sentences of the documentation on the machine, in an order that says nothing."""
    found: dict[str, None] = {}
    roots = [Path(sysconfig.get_paths()["stdlib"]), Path(sysconfig.get_paths()["purelib"])]
    for path in _listed(roots):
        if path.suffix in (".md", ".rst", ".txt", ".py") and len(found) < _SENTENCES:
            text = _bytes(path)[: 1 << 15].decode("utf-8", "replace")
            found.update(dict.fromkeys(_sentences(text)))
    chosen = [each for each in found if _is_apart(each.encode()) == apart]
    return tuple(chosen[place] for place in np.random.default_rng(0).permutation(len(chosen)))


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        plain = " ".join(paragraph.replace("#", " ").split())
        for sentence in re.findall(r"[A-Z][A-Za-z0-9 ,;:'()/-]{24,200}[.?!](?= |$)", plain):
            if len(sentence.split()) >= 5:
                yield sentence


def tokens(count: int, seed: int, apart: bool, tokenizer: bytes) -> dict[str, Array]:
    """Return sentences as tokens, padded to one length."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_buffer(tokenizer)
    encoder.enable_truncation(_TOKENS)
    encoder.enable_padding(length=_TOKENS)
    chosen = np.random.default_rng(seed).permutation(len(sentences(apart)))[:count]
    found = encoder.encode_batch([sentences(apart)[place] for place in chosen])
    ids = np.array([each.ids for each in found], np.int64)
    return {"input_ids": ids, "attention_mask": np.array([each.attention_mask for each in found], np.int64)}


# Speech


@lru_cache
def _voices(apart: bool) -> tuple[str, ...]:
    listed = subprocess.run(["espeak-ng", "--voices"], check=True, capture_output=True, text=True).stdout
    names = [line.split()[1] for line in listed.splitlines()[1:]]
    usable = [name for name in names if "-x-" not in name]  # some of those are listed and cannot be spoken
    return tuple(name for name in usable if _is_apart(name.encode()) == apart)


def _spoken(sentence: str, random: np.random.Generator, apart: bool) -> Array:
    """Return a sentence in some voice, at some speed and pitch, at 16 kHz."""
    speed, pitch = random.integers(110, 240), random.integers(10, 90)
    voice = _drawn(_voices(apart), random) + _drawn(_TIMBRES, random)
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", sentence]
    wave = subprocess.run(command, check=True, capture_output=True).stdout
    data = np.frombuffer(wave[44 : len(wave) - len(wave) % 2], np.int16) / 32768
    return _resampled(data, 22_050)


def _resampled(data: Array, rate: int) -> Array:
    """Return audio at 16 kHz, without what lies above 8 kHz."""
    spectrum = np.fft.rfft(data)
    length = len(data) * _RATE // rate
    return np.asarray(np.fft.irfft(spectrum[: length // 2 + 1], length) * length / max(1, len(data)))


def _noise(length: int, random: np.random.Generator) -> Array:
    """Return noise of one of several colours, steady or swelling, with a hum or clicks."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    frequency = np.maximum(np.arange(len(spectrum)), 1) / len(spectrum)
    found = np.fft.irfft(spectrum * frequency ** -random.choice([0, 0.5, 1]), length)
    time = np.arange(length) / _RATE
    if random.random() < 0.4:
        found *= 0.6 + 0.5 * np.sin(2 * np.pi * random.uniform(0.1, 4) * time)
    found /= found.std()
    if random.random() < 0.3:
        found += 2 * np.sin(2 * np.pi * random.uniform(50, 1200) * time)
    if random.random() < 0.3:
        found[random.integers(length, size=40)] += 12
    return np.asarray(found / found.std())


def _audio(random: np.random.Generator, apart: bool) -> Array:
    """Return a stream: sentences with pauses between, and noise."""
    found = np.zeros(_STREAM)
    place = int(random.integers(2 * _RATE))
    while random.random() < 0.9 and place < _STREAM:
        own = _spoken(_drawn(sentences(apart), random), random, apart) * random.uniform(0.1, 1)
        own = own[: _STREAM - place]
        found[place : place + len(own)] += own
        place += len(own) + int(random.integers(4 * _RATE))
    level = 10 ** random.uniform(-3.5, -0.8)
    mixed = found + level * _noise(_STREAM, random)
    return np.asarray(mixed / max(1.0, np.abs(mixed).max()), np.float32)


def speech(count: int, seed: int, apart: bool) -> Array:
    """Return streams of audio as the detector is fed: [streams, steps, samples], each step with what was before it."""
    random = np.random.default_rng([seed, apart])
    streams = np.stack([_audio(random, apart) for _ in range(count)])
    padded = np.pad(streams, ((0, 0), (_CONTEXT, 0)))
    starts = range(0, _STREAM - _CHUNK + 1, _CHUNK)
    return np.stack([padded[:, start : start + _CONTEXT + _CHUNK] for start in starts], axis=1)


# Lines


@lru_cache
def _fonts(apart: bool) -> tuple[str, ...]:
    import matplotlib

    bundled = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = [path for path in _listed([Path("/usr/share/fonts"), bundled]) if path.suffix in (".ttf", ".otf")]
    latin = {path.name: str(path) for path in found if not re.search("cmsy|cmex|cmmi|STIXSiz|STIXNon|Math", path.name)}
    names = sorted(latin)
    return tuple(latin[name] for place, name in enumerate(names) if (place % _APART == 0) == apart)


def _line(text: str, random: np.random.Generator, apart: bool) -> Array:
    """Return a line of text as an image, [height, width, channels]: dark on light or light on dark, blurred, noisy."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.truetype(_drawn(_fonts(apart), random), int(random.integers(22, 44)))
    left, top, right, bottom = font.getbbox(text)
    margins = random.integers(2, 10, 4)
    size = int(right - left + margins[0] + margins[1]), int(bottom - top + margins[2] + margins[3])
    ground, ink = random.integers(150, 256, 3), random.integers(0, 110, 3)
    if random.random() < 0.3:
        ground, ink = ink, ground
    image = Image.new("RGB", size, tuple(map(int, ground)))
    ImageDraw.Draw(image).text((margins[0] - left, margins[2] - top), text, tuple(map(int, ink)), font)
    image = image.rotate(random.uniform(-1.5, 1.5), Image.Resampling.BILINEAR, fillcolor=tuple(map(int, ground)))
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.2)))
    noisy = np.asarray(image, np.float64) + random.normal(0, random.uniform(0, 12), (size[1], size[0], 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def lines(count: int, seed: int, apart: bool) -> dict[str, Array]:
    """Return drawn lines as the recognizer is fed: of one height, from -1 to 1, padded to one width."""
    from PIL import Image

    random = np.random.default_rng([seed, apart])
    found = np.zeros((count, 3, _HEIGHT, _WIDTH), np.float32)
    for place in range(count):
        words = _drawn(sentences(apart), random).split()
        start = int(random.integers(len(words)))
        text = " ".join(words[start : start + int(random.integers(1, 5))])[:24]
        image = _line(text, random, apart)
        width = min(_WIDTH, -(-image.shape[1] * _HEIGHT // image.shape[0]))
        drawn = np.asarray(Image.fromarray(image).resize((width, _HEIGHT), Image.Resampling.BILINEAR), np.float32)
        found[place, :, :, :width] = drawn.transpose(2, 0, 1) / 127.5 - 1
    return {"x": found}
