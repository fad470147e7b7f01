"""The local runtime: API server, operator and kubelet of one machine, for ``pangu run``."""
