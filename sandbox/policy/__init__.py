"""Decides what a container gets: limits, network, system calls, by pure functions; must not know
the containers that run.
"""
