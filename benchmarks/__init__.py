"""Measurements that anyone can repeat: `python -m benchmarks.relay`, `python -m benchmarks.rpc`,
`python -m benchmarks.rpc_throughput`.

CPU time comes from the operating system's accounting of each process, never from wall time alone.
Machines are noisy, so contenders take turns within one run, and ratios are what to quote.
"""
