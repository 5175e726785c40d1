"""Calls without a request to the API: routes, webhooks, schedules; must not know HTTP or the tables
of executions.
"""
