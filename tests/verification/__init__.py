"""Tests of the verification of two models against each other."""
