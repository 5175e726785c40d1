"""The record of executions and the queue of those that nobody waits for; knows neither HTTP nor
containers.
"""
