"""Checks that this machine can run functions safely; must not know the server."""
