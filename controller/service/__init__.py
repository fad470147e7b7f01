"""What is decided for a PanguService. Pure; ``controller.cluster.service_worker`` is its rim."""
