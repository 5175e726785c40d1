"""What manifests ask to be called by: routes, webhooks, schedules; knows neither HTTP nor the
record's tables.
"""
