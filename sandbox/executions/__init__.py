"""The record of executions, and the queue of those whose caller does not wait; must not know HTTP
or containers.
"""
