"""`sandbox serve`: functions over HTTP, for many callers; must not know how a container runs."""
