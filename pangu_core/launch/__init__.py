"""One agent per pod: starts ranks, watches them, reports progress."""
