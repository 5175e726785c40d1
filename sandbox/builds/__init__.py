"""Installs the dependencies of functions and runs their build steps, in containers; must not know
invocations.
"""
