"""What `make demo` shows: a broker, the example services, and calls of every kind."""
