"""The `rsocket-mesh` command: a client like any other, with no stubs of the services it calls."""
