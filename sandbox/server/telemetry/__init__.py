"""Metrics, traces and logs of executions; must not know who reports them."""
