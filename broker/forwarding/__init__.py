"""The hot path: sessions, the relay between them, and what opens and ends a call.

link       one peer's session         hub       what all sessions share
relay      the inner loop             law       which frame does what on a stream
opening    plain requests, fast       requests  all others: collected, awaited, spliced
turns      frames that need thought   call      two streams, joined
routes     the route cache            wheel     deadlines without a timer each
"""
