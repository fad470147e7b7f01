"""Seconds from a fault to the next step, for our launcher and for stock torchrun, in one run."""
