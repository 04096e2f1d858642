"""What holds of an operator whatever its inputs are: declared on its rule, asked by walkers through the graph."""

from __future__ import annotations

from enum import Enum


class Trait(Enum):
    """One property of an operator."""

    ALIAS = "its output is its first input under another name"
    COPIES = "its output has the values of its first input, at most in another type"
    DECODES = "its output holds what the codes in its first input stand for, each at its place"
    REARRANGES = "its output has the elements of its first input, each once, at other places"
    SELECTS = "its output has some elements of its first input, each at most once"
    JOINS = "its output has the elements of all its inputs, each once"
    REPEATS = "its output has elements of its first input, each as often as it likes"
    POINTWISE = "each element of its output is computed of those at the same place in its inputs, which may broadcast"
    BESIDE = "each channel of its output is made of the same channel of its inputs, at whatever places"
    CARRIES_OVER = "what it makes are elements that it reads, or zeros, at whatever places: bounds go with them"
    READS_SHAPE = "it reads nothing of its inputs but their shapes"
    NORMALISES = "its outputs, none negative, sum to 1 along the normalised axes"
    TESTS_NAN = "it says where its input is no number"
    TESTS_FINITE = "it tells infinities or NaN from other numbers"
    COMPARES = "it says how two numbers compare, which is never true of NaN"
    NEGATES = "it holds where its input does not"
    NEEDS_BOTH = "it holds where all its inputs do"
    NEEDS_ONE = "it holds where some input does"
    ENCODES = "it rounds its first input to codes, so that what comes before it can be computed in integers"
