"""The rim to a real cluster: API, caches, queue, Lease, manager."""
