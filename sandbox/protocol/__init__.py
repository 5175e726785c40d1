"""Turns bytes into requests, responses, logs and reports, and back, under caps; must not know
sockets or containers.
"""
