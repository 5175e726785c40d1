"""The seam to a container engine, and what every engine shares; knows no function, no policy and
no protocol.
"""
