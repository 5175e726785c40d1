"""What is kept on disk: bundles, digests of files, leases, owners; must not know functions or
engines.
"""
