"""Metrics, traces and logs of executions; is told, and asks nobody."""
