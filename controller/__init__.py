"""Talks to people and to clusters: the pangu command, reconcile, and the local runtime."""
