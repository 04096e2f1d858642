"""In the place of pip and npm while pages are tried: installs nothing, but refuses extras that there are not."""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata


def main(arguments: list[str]) -> int:
    wanted = {name for word in arguments for part in re.findall(r"\[([\w,-]+)\]", word) for name in part.split(",")}
    unknown = sorted(wanted - set(metadata("onnxsqueeze").get_all("Provides-Extra") or ()))
    if arguments[:1] != ["install"] or unknown:
        print(f"cannot be installed: {' '.join(unknown or arguments)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
