"""The public test kit: what programs and other RSocket implementations are tested with.

Floor below the command. `conformance` speaks raw frames to any RSocket peer and says which
requirements of the protocol it keeps. Only this floor may import the broker, and it does so when a
broker is really wanted: `import rsocket_mesh` costs nothing of it.
"""
