"""Blocks of real networks made in torch, removable units planted at random places, as both exporters write them."""
