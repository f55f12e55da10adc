"""Measurements that anyone can repeat: `make bench`, or `python -m benchmarks --help`.

CPU time comes from the operating system's accounting of each process, never from wall time alone.
Machines are noisy, so contenders take turns within one run, and ratios are what to quote.

    model        what a run leaves: rows of samples, skip lines, the machine; to and from JSON
    stage        contenders as process trees: start, pin, CPU and memory, end
    cores        which processor is whose
    load, raw    raw frames as load: `raw` drives `native/load.c`, `load` is a small one in Python
    context      what a workload gets: contenders in turns, rounds, progress, skip lines
    rpc, rpc_*   typed calls in Python beside other libraries; commands of their own, too
    contenders/  who is measured, one file each
    workloads/   what is measured, one file each
    report/      Markdown, plots, what was promised, who is faster than we are

A new contender is a module in `contenders/` with `CONTENDERS`, a tuple of `Contender`: a name, what
it speaks (`rsocket`, `nats`, `http2`...), and a context manager that starts it and yields
`Running`, or raises `Unavailable` with the line that the report shows. It is then in every workload
that speaks its language.

A new workload is a module in `workloads/` with `WORKLOADS`, a tuple of `Workload`: a name, what the
report says about it, and `run(context) -> list[Row]`. Most call `context.interleave`, which lets
the contenders take turns; each sample has names that are in `model.UNITS`. A `Row` is one contender
under one set of parameters, and its metrics keep every sample. Nothing else has to be registered.
"""
