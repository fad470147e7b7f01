"""Frozen settings, shared by the job file, the controller and the pods."""
