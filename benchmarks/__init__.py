"""Latencies, measured side by side."""
