"""The images of the runtimes: what they are made of, and how they are built; must not know
functions.
"""
