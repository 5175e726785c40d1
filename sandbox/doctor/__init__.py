"""Checks that this machine can run functions safely; knows nothing of servers."""
