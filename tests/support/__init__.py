"""What tests of several packages share: networks, how they are made, and what is asserted of them."""
