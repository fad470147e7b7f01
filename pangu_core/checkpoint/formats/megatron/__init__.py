"""Checkpoints of the Megatron port and of Megatron-core: one folder of files, two dialects."""
