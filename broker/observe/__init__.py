"""What the broker counts and writes: counters, Prometheus text, log lines."""
