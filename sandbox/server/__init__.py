"""`sandbox serve`: the executor as an HTTP service."""
