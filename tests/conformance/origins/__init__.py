"""One suite for both origins of requests: sockets of either engine, and calls of the server for itself and for a user.

What a request comes to does not depend on where it comes from. The few differences are written into the cases.
"""
