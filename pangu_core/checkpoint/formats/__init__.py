"""Weights of every format that can be read or written, one module each; form.py says how."""
