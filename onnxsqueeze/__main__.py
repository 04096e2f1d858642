"""``python -m onnxsqueeze``: the same as the ``onnxsqueeze`` command."""

from onnxsqueeze.cli.main import main

if __name__ == "__main__":
    main()
