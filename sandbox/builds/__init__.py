"""Installs what functions depend on and runs their build steps, in containers; knows nothing of
invocations.
"""
