"""What is kept on disk: bundles, their digests, leases, owners; knows neither functions nor
engines.
"""
