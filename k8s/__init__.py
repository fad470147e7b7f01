"""From a job file to Kubernetes manifests; no cluster access, no torch."""
