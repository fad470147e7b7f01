"""``pangu doctor``: what a cluster lacks for our jobs, each with the command that mends it."""
