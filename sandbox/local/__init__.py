"""Invocations by a process that already runs, over a Unix socket; must not know settings or
containers.

Its client imports little: it is a command line that should answer at once.
"""
