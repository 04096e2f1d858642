"""What the project is made and measured with; none of it is shipped.

- ``measure``: what minimizing costs, and how fast layers and models are.
- ``models``: networks, masks and exporters, and how the files in models/ are made.
- ``recipes``: squeezing and training on real data.
- ``docs``: pages that are written from the code.

Scripts are run as ``python tools/recipes/reproduce_vit.py``. Modules import each other as ``tools.recipes.data``, which
works because ``pip install -e .`` puts the root of the repository on Python's path (``dev-mode-dirs`` in
pyproject.toml).
"""
