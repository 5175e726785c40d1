"""Metrics, traces and logs of executions; must not know their sources."""
