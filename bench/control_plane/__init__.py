"""How the controller bears many jobs on a real API server: ``python -m bench.control_plane``."""
