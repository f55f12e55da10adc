"""The hot path above the kernel: sessions, and what opens and ends a call.

sessions   link one peer's session · hub what all share · admission who gets a place · greeting the
           first bytes · control stream 0 · pushes METADATA_PUSH · resumption sockets that broke
frames     turns those that need thought · strays those without a stream
opening    requests that are not plain · joining their legs · splice their metadata · routes the
           cache
calls      call two streams, joined · items those with credit · credit asked, granted, delivered ·
           budget what providers can take · leasing what clients may ask
limits     limiter how often and how much · pressure requests, and peers that do not read · guard
           the memory of the process
"""
