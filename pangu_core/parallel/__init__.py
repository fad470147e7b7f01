"""Tensor parallelism: collectives, layers, loss, random numbers."""
