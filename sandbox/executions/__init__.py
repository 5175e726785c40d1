"""The record of executions, and the queue of those without a waiting caller; knows neither HTTP nor
containers.
"""
