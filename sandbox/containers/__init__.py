"""A container that serves a function: launched, listened to, removed; knows nothing of who waits
for it.
"""
