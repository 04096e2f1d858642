"""Write docs/operators.md: the operators that have a rule, from the registry itself.

python tools/docs/list_operators.py            # writes the file
python tools/docs/list_operators.py --print    # prints it
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from onnxsqueeze.rules.contract import OpRule

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/operators.md"
_FOREVER = 1 << 30

_HEAD = """# Operators with a rule

Written by `python tools/docs/list_operators.py` from the registry of rules. Any other operator is left as it is: all of
its inputs stay whole, and its name stands in the report. *layer*: its channels can go, and what is lost is folded into
constants; *narrows*: what it reads and writes can become narrower; *sizes*: it is followed where it computes shapes or
constants; *lowered*: it is followed as the operators that it was made from. Where it depends on the inputs what an
operator is, all that it may be is listed.

| operator | opset | kind |
|---|---|---|
"""


def page() -> str:
    """Return the text of docs/operators.md."""
    return _HEAD + "".join(sorted((*_rows(), *_lowered()), key=_place))


def _place(row: str) -> tuple[str, str]:
    """Sort operators by domain first, those of the standard in front."""
    name = row.split(" | ")[0].removeprefix("| ")
    return name.rpartition(".")[0], name


def _lowered() -> Iterator[str]:
    from onnxsqueeze.canonicalization import blocked
    from onnxsqueeze.canonicalization.lowering.finding import LOWERINGS
    from onnxsqueeze.rules.registry import rules

    with_rule = {(rule.domain, rule.op) for rule in rules()}
    for domain, op in sorted(set(LOWERINGS) - with_rule):
        yield f"| {f'{domain}.' if domain else ''}{op} | all | lowered |\n"
    for op in blocked.OPERATORS:
        yield f"| {blocked.DOMAIN}.{op} | all | lowered |\n"


def _rows() -> Iterator[str]:
    import onnxsqueeze.operators  # noqa: F401  (registers the rules)
    from onnxsqueeze.rules.registry import rules

    for rule in sorted(rules(), key=lambda rule: (rule.domain, rule.op, rule.since)):
        kinds = dict.fromkeys(_kind(variant) for variant in (rule.variants or (rule,)))
        name = f"{rule.domain}.{rule.op}" if rule.domain else rule.op
        yield f"| {name} | {_versions(rule.since, rule.until)} | {' or '.join(sorted(kinds))} |\n"


def _kind(rule: OpRule) -> str:
    unknown = OpRule("")
    weights = rule.contracts is not None and rule.parameters is not unknown.parameters
    return "layer" if rule.linear or weights else "sizes" if rule.link is unknown.link else "narrows"


def _versions(since: int, until: int) -> str:
    if until >= _FOREVER:
        return "all" if since == 1 else f"{since} and later"
    return f"up to {until}" if since == 1 else f"{since} to {until}"


@click.command()
@click.option("--print", "show", is_flag=True, help="Print the page instead of writing it.")
def main(show: bool) -> None:
    """Write docs/operators.md."""
    if show:
        click.echo(page(), nl=False)
        return
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
