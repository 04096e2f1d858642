"""Modules that exports of minimized networks are made of."""
