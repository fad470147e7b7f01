"""Checkpoints: manifest, sharder, store, import and export."""
