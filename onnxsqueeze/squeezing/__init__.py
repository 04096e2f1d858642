"""From a dense network and samples to a small one: units leave, and what read them is repaired by least squares."""
