"""Tensors and the files that hold them."""
