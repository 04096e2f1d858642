"""The ``onnxsqueeze`` command, also as ``python -m onnxsqueeze``: signals first, then what takes long to import."""

from onnxsqueeze.cli.signals import end_quietly


def main() -> None:
    """Run the command and exit."""
    end_quietly()
    from onnxsqueeze.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
