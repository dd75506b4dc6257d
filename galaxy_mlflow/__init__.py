"""Paired machine-learning experiments on galaxy images."""
