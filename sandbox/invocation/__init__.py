"""One invocation from request to response: its clock, its outcome, the limits it hit; knows
nothing of who asks.
"""
