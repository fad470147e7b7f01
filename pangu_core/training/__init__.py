"""Optimizer, schedule, step and loop."""
