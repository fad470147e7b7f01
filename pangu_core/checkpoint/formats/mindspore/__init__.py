"""MindSpore's weight files: names, wire format, strategy files, shards."""
