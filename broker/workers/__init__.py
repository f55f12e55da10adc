"""Several processes that are one broker: who gets a connection, and how calls cross (ADR 0008).

supervisor  the process that was started: starts, watches, restarts · process one worker as a child
            door accepts for the others · accepting while somebody takes it · placing who gets the
            next connection · registrar what sessions announce, told to all · directory the same, in
            one order · view one answer out of all reports
worker      the process that serves: a broker without listeners · adopting sockets it is handed ·
            hub sessions, of which the others are told · siblings the links between workers, and
            the instances behind them · routes near before far · balance how much sooner · moving a
            RESUME to its session · share its part of the limits
between     channel messages and sockets over a Unix socket · messages · report
"""
