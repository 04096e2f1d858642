"""Rules are asked through a guard: what one raises that nobody foresaw becomes the lesson `RuleFailed`.

The node whose rule was asked is then treated as an unknown operator, and the run goes on. With ONNXSQUEEZE_STRICT=1 in
the environment, as in the tests, the error stays what it is, unless the node itself cannot run: a rule need not foresee
what the checker of onnx lets through.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache, wraps
from typing import Any

from onnxsqueeze.abstract.symbolic import Undecided
from onnxsqueeze.errors import SqueezeError, one_line
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import UNKNOWN, Context, OpRule
from onnxsqueeze.rules.lessons import Failure, Lesson, RuleFailed

STRICT = "ONNXSQUEEZE_STRICT"
NOT_COMPUTABLE = (Undecided, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError)
"""What numpy and Python raise for constants and sizes that an operator cannot be computed from."""

_FORESEEN: Mapping[str, tuple[type[Exception], ...]] = {"evaluate": NOT_COMPUTABLE}
_MOST_RULES = 1024  # some rules are made for one node; those of the registry are far fewer


@lru_cache(_MOST_RULES)
def guarded(rule: OpRule) -> OpRule:
    """Return a rule of which every function is guarded; those that it shares with `UNKNOWN` cannot fail."""
    asked = _asked(rule, UNKNOWN)
    return replace(rule, **asked) if asked else rule


def _asked(record: Any, safe: Any, within: str = "") -> dict[str, Any]:
    """Return the functions among a record's fields that are not those of the safe one, guarded; records in it too."""
    found: dict[str, Any] = {}
    for field in fields(record):
        own, default = getattr(record, field.name), getattr(safe, field.name, None)
        if own is default:
            continue
        if is_dataclass(own) and not isinstance(own, type):
            found[field.name] = replace(own, **_asked(own, default, f"{field.name}."))
        elif callable(own):
            found[field.name] = _guarded(within + field.name, own)
    return found


def _guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    passed: tuple[type[Exception], ...] = (Lesson, SqueezeError, MemoryError, *_FORESEEN.get(name, ()))

    @wraps(call)
    def ask(node: Node, *arguments: Any) -> Any:
        try:
            found = call(node, *arguments)
        except passed:
            raise
        except Exception as error:
            context = next((argument for argument in arguments if isinstance(argument, Context)), None)
            if context is not None:
                _blame(error, context, name, node)
            if os.environ.get(STRICT, "0") not in ("", "0"):
                raise
            raise RuleFailed(node.index, _failure(node, name, error)) from error
        return guarded(found) if isinstance(found, OpRule) else found

    return ask


@contextmanager
def blaming(context: Context) -> Iterator[None]:
    """Blame a node that cannot run, where there is one, for an error of a driver that nobody foresaw.

    Raises:
        RuleFailed: naming the node.
    """
    try:
        yield
    except (Lesson, SqueezeError, MemoryError):
        raise
    except Exception as error:
        _blame(error, context, "", None)
        raise


def _blame(error: Exception, context: Context, callback: str, last: Node | None) -> None:
    """Raise `RuleFailed` if a node that ``last`` depends on cannot run, else return."""
    from onnxsqueeze.rules.runnable import above, unrunnable  # it may need onnxruntime, which takes long to import

    nodes = context.graph.nodes if last is None else above(last, context)
    if found := unrunnable((node for node in nodes if not node.failed), context):
        node, reason = found
        raise RuleFailed(node.index, _failure(node, callback, error, reason)) from error


def _failure(node: Node, name: str, error: Exception, refused: str = "") -> Failure:
    words = ": ".join(filter(None, (type(error).__name__, one_line(error))))
    trace = "".join(traceback.format_exception(error))
    return Failure(node.operator, node.label, name, words, trace, refused=refused)
