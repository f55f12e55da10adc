"""The same two calls by several libraries: each module is both ends of one contender.

A module has `USES_UVLOOP`, `serve(port)`, which prints its port and `ready` and serves until the
process is told to end, and `caller(port, method)`, an asynchronous context manager that gives a
function; calling it makes one call and returns the answer in Python's own values. The methods and
their arguments are those of `messages`.
"""
