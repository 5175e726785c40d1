"""The way from an edit to a version in service: validation, deployment, hot reload; must not know
requests.
"""
