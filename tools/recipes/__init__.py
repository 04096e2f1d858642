"""What the recipes in tools/ share: data, networks, a training loop, the run itself, and its record."""
