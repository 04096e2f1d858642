"""Model-local functions: those that new nodes call are defined, those that only replaced nodes called are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, ModelProto, helper

FIRST_IR_VERSION = 8

Names = set[tuple[str, str]]
"""(domain, name) of functions."""


def define(skeleton: ModelProto, functions: Iterable[onnx.FunctionProto]) -> None:
    """Add functions and the import of their domains, once each."""
    defined = {(function.domain, function.name) for function in skeleton.functions}
    imported = {entry.domain for entry in skeleton.opset_import}
    for function in functions:
        if (function.domain, function.name) not in defined:
            skeleton.functions.append(function)
            skeleton.ir_version = max(skeleton.ir_version, FIRST_IR_VERSION)
        if function.domain not in imported:
            imported.add(function.domain)
            skeleton.opset_import.append(helper.make_opsetid(function.domain, 1))


def drop_uncalled(skeleton: ModelProto, replaced: Names) -> None:
    """Remove functions among ``replaced``, and those that only they called, if nothing in the model calls them now."""
    called = set(_calls(skeleton.graph.node))
    for function in skeleton.functions:
        called |= set(_calls(function.node)) - {(function.domain, function.name)}
    gone = replaced - called
    left = [function for function in skeleton.functions if (function.domain, function.name) not in gone]
    if len(left) < len(skeleton.functions):
        lost = [function for function in skeleton.functions if (function.domain, function.name) in gone]
        inner = {call for function in lost for call in _calls(function.node)}
        copies = [onnx.FunctionProto.FromString(function.SerializeToString()) for function in left]
        del skeleton.functions[:]
        skeleton.functions.extend(copies)
        drop_uncalled(skeleton, inner)


def _calls(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    """Yield the operators that nodes and their subgraphs are of."""
    for node in nodes:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for graph in graphs:
                yield from _calls(graph.node)
