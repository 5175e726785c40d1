"""One invocation, from its request to its response: time limit, outcome, limits that it hit; must
not know who called.
"""
