"""What calls functions without a caller's request to the API: routes, webhooks and schedules.

Knows neither HTTP nor the tables of executions.
"""
