"""Keeps bundles, their digests, leases and owners on disk; knows neither functions nor engines."""
