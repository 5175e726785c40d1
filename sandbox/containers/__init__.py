"""Containers that serve functions: starts, reads from and removes them; must not know who waits for
one.
"""
