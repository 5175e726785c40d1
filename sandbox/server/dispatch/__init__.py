"""The one way from every kind of caller to the library: invokes, records, queues; must not know
HTTP.
"""
