"""Containers that are booted ahead of requests, and the queue for them; must not know what is said
to a container.
"""
