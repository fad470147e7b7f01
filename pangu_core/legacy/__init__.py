"""The original commands: their names and flags, carried out by what the new commands call."""
