"""Several processes that are one broker: who gets a connection, and how calls cross (ADR 0008).

supervisor  the process that was started: starts, watches, restarts · door accepts for the others ·
            accepting while somebody takes it · placing who gets the next connection · directory
            what all sessions announce, in one order · process one worker as a child · view one
            answer out of all reports
worker      the process that serves: a broker without listeners · adopting sockets it is handed ·
            hub sessions, of which the others are told · siblings the links between workers, and
            the instances behind them · routes near before far · moving a RESUME to its session ·
            share its part of the limits
between     channel messages and sockets over a Unix socket · messages · report
"""
