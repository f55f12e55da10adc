"""The daemon `rsocket-broker`: one process that joins services and callers."""
