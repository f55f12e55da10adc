/* HTTP/2 as a gRPC client speaks it: a POST on a stream of its own, its data within both windows.
 * Part of load.c. Headers are indexed after the first request of a connection, like everywhere. */

enum { H2_DATA = 0, H2_HEADERS = 1, H2_RST = 3, H2_SETTINGS = 4, H2_PING = 6, H2_GOAWAY = 7,
       H2_WINDOW = 8, H2_END_STREAM = 1, H2_ACK = 1, H2_END_HEADERS = 4 };
enum { HTTP2 = 200, HTTP2_SETTINGS = 200 + H2_SETTINGS }; /* message types: 200 + frame type */
static const uint32_t MANY = 1 << 30; /* bytes of receive window: flow control is not measured */

static unsigned char *h2_frame(conn *c, size_t n, int type, int flags, uint32_t id) {
    unsigned char *p = room(c, 9 + n);
    p[0] = n >> 16, p[1] = n >> 8, p[2] = n, p[3] = type, p[4] = flags;
    put_u32(p + 5, id);
    return p + 9;
}

/* POST, http, then path, authority, content-type and te, in the dynamic table from 62 up. */
static const unsigned char H2_FIRST[] =
    "\x83\x86" "\x44\x17/bench.EchoService/echo" "\x41\x09" "localhost"
    "\x5f\x10" "application/grpc" "\x40\x02te\x08trailers";
static const unsigned char H2_LATER[] = "\x83\x86\xc1\xc0\xbf\xbe";

static void h2_settings(conn *c) {
    unsigned char *p = h2_frame(c, 12, H2_SETTINGS, 0, 0);
    memcpy(p, "\0\3\0\0\x40\0" "\0\4", 8); /* most streams at once; window of a stream */
    put_u32(p + 8, MANY);
    put_u32(h2_frame(c, 4, H2_WINDOW, 0, 0), MANY);
    c->window = 65535;
    c->stream_window = 65535;
}

static void h2_hello(conn *c) {
    memcpy(room(c, 24), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    h2_settings(c);
}

/* Send what both windows let through of the requests that wait, in their order. */
static void h2_pump(conn *c, size_t (*left_of)(conn *, uint32_t), void (*sent)(conn *, uint32_t, size_t),
                    int64_t (*window_of)(conn *, uint32_t)) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->actives; i++) {
        uint32_t id = c->active[i];
        size_t left;
        for (;;) {
            left = left_of(c, id);
            int64_t may = c->window < window_of(c, id) ? c->window : window_of(c, id);
            size_t n = left < 16384 ? left : 16384;
            if (may < (int64_t)n) n = may > 0 ? may : 0;
            if (!n) break;
            memset(h2_frame(c, n, H2_DATA, n == left ? H2_END_STREAM : 0, id), 'x', n);
            c->window -= n;
            sent(c, id, n);
        }
        if (left) c->active[kept++] = id;
    }
    c->actives = kept;
}

static size_t parse_http2(conn *c, const unsigned char *p, size_t n) {
    message *m = &c->head;
    if (n < 9) return 0;
    size_t size = (size_t)p[0] << 16 | p[1] << 8 | p[2], head = 9;
    m->type = HTTP2 + p[3];
    m->flags = p[4];
    m->id = u32(p + 5);
    m->n = size;
    if (p[3] == H2_SETTINGS || p[3] == H2_PING || p[3] == H2_WINDOW) head = 9 + size;
    if (p[3] == H2_RST || p[3] == H2_GOAWAY) head = 9 + (p[3] == H2_RST ? 4 : 8);
    if (p[3] == H2_HEADERS && size) head = 10;
    if (head > CARRY) fail("HTTP/2", "a control frame of more than 1 KiB");
    if (n < head) return 0;
    if (p[3] == H2_WINDOW) m->n = u32(p + 9);
    if (p[3] == H2_RST) snprintf(m->text, sizeof m->text, "RST_STREAM, code %u", u32(p + 9));
    if (p[3] == H2_GOAWAY) snprintf(m->text, sizeof m->text, "GOAWAY, code %u", u32(p + 13));
    if (p[3] == H2_HEADERS) m->n = size ? p[9] : 0;
    if (p[3] == H2_PING) memcpy(m->text, p + 9, 8);
    for (size_t at = 9; p[3] == H2_SETTINGS && at + 6 <= 9 + size; at += 6)
        if (p[at] == 0 && p[at + 1] == 4) c->stream_window = u32(p + at + 2);
    c->skip = 9 + size - head;
    return head;
}
