"""The network, its initial weights and its key/value cache."""
