"""The protocol floor: bytes and events, no I/O, no clock, no randomness.

Every object here takes frames and `now` and gives back events, frames to send and a deadline;
a shell (`rsocket_mesh.peer`, `broker.forwarding`) owns the socket and the timer.
"""
