/* Connections, and the languages on them: RSocket (plain or in WebSocket messages), the text
 * protocol of NATS; `http2.h` adds a third. Part of load.c.
 *
 * Payloads are never looked at: a parser reads the head of a message and says how many bytes to
 * skip. So one read buffer serves all connections, and each keeps only the beginning of a head. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#endif

enum { CARRY = 1024, READ_SIZE = 1 << 20, STREAMS = 1 << 16 }; /* bytes, bytes, per connection */
enum { SETUP = 1, KEEPALIVE = 3, RESPONSE = 4, FNF = 5, STREAM = 6, CHANNEL = 7, REQUEST_N = 8,
       CANCEL = 9, PAYLOAD = 10, ERROR = 11, NATS_MSG = 100, NATS_PING, NATS_PONG, NATS_ERR, OTHER };
enum { NEXT = 0x20, COMPLETE = 0x40, RESPOND = 0x80 };

typedef struct { int type, flags; uint32_t id, n; char text[160]; } message;
typedef struct { uint64_t intended; uint32_t credit, consumed, waiting, opened; bool active; } stream;

typedef struct conn {
    int fd, index;
    bool caller, websocket, touched, blocked, stopped;
    unsigned char carry[CARRY];
    size_t carried, skip;
    message head;
    unsigned char *out;
    size_t out_at, out_len, out_cap;
    uint32_t next_id;
    stream *streams;
    uint32_t *active, actives;
    int64_t window, stream_window, unreported; /* HTTP/2: may send, of a new stream, has taken */
#ifdef WITH_TLS
    SSL *ssl;
#endif
} conn;

static bool nats;
static unsigned char read_buffer[CARRY + READ_SIZE];

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

/* Outbound */

static unsigned char *room(conn *c, size_t n) {
    if (c->out_len + n > c->out_cap) {
        if (c->out_at) {
            memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
            c->out_len -= c->out_at;
            c->out_at = 0;
        }
        while (c->out_len + n > c->out_cap) c->out_cap = c->out_cap ? c->out_cap * 2 : 4096;
        c->out = realloc(c->out, c->out_cap);
        if (!c->out) fail("out of memory", "outbound buffer");
    }
    c->out_len += n;
    return c->out + c->out_len - n;
}

/* Append one frame: HEAD, and PAYLOAD bytes of data behind it. Returns where the head is. */
static unsigned char *put(conn *c, const void *head, size_t head_len, size_t payload) {
    size_t n = head_len + payload;
    unsigned char *p;
    if (!c->websocket) {
        p = room(c, 3 + n);
        p[0] = n >> 16, p[1] = n >> 8, p[2] = n;
        p += 3;
    } else { /* one binary message; masked with zeros, which the other end cannot know */
        size_t extra = n < 126 ? 0 : n < 65536 ? 2 : 8;
        p = room(c, 6 + extra + n);
        *p++ = 0x82;
        *p++ = 0x80 | (extra == 0 ? n : extra == 2 ? 126 : 127);
        for (int i = (int)extra - 1; i >= 0; i--) *p++ = (uint64_t)n >> (8 * i);
        memset(p, 0, 4);
        p += 4;
    }
    memcpy(p, head, head_len);
    memset(p + head_len, 'x', payload);
    return p;
}

static void put_u32(unsigned char *p, uint32_t v) {
    p[0] = v >> 24, p[1] = v >> 16, p[2] = v >> 8, p[3] = v;
}

static uint32_t u32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static void put_small(conn *c, uint32_t id, int type, int flags, size_t payload) {
    unsigned char head[6] = {0, 0, 0, 0, type << 2 | flags >> 8, flags};
    put_u32(head, id);
    put(c, head, 6, payload);
}

static void put_request_n(conn *c, uint32_t id, uint32_t n) {
    unsigned char head[10] = {0, 0, 0, 0, REQUEST_N << 2, 0};
    put_u32(head, id);
    put_u32(head + 6, n);
    put(c, head, 10, 0);
}

static ssize_t raw_write(conn *c, const void *p, size_t n) {
#ifdef WITH_TLS
    if (c->ssl) {
        int k = SSL_write(c->ssl, p, n > 1 << 30 ? 1 << 30 : (int)n);
        if (k > 0) return k;
        errno = EAGAIN;
        if (SSL_get_error(c->ssl, k) != SSL_ERROR_WANT_WRITE) errno = EPIPE;
        return -1;
    }
#endif
    return send(c->fd, p, n, MSG_NOSIGNAL);
}

static ssize_t raw_read(conn *c, void *p, size_t n) {
#ifdef WITH_TLS
    if (c->ssl) {
        int k = SSL_read(c->ssl, p, (int)n);
        if (k > 0) return k;
        errno = EAGAIN;
        return SSL_get_error(c->ssl, k) == SSL_ERROR_WANT_READ ? -1 : 0;
    }
#endif
    return recv(c->fd, p, n, 0);
}

/* Write what the socket takes; whether something is left is in `blocked`. */
static void flush(conn *c) {
    while (c->out_at < c->out_len) {
        ssize_t k = raw_write(c, c->out + c->out_at, c->out_len - c->out_at);
        if (k < 0) {
            if (errno == EAGAIN) { c->blocked = true; return; }
            fail("the connection broke", strerror(errno));
        }
        c->out_at += k;
    }
    c->out_at = c->out_len = 0;
    c->blocked = false;
}

/* Inbound: return the bytes of a message's head, 0 if it is not whole yet; set `skip`. */

static size_t parse_rsocket(conn *c, const unsigned char *p, size_t n) {
    message *m = &c->head;
    size_t before = 3, size;
    if (n < 3) return 0;
    if (!c->websocket) {
        size = (size_t)p[0] << 16 | p[1] << 8 | p[2];
    } else {
        int short_size = p[1] & 0x7f;
        before = short_size < 126 ? 2 : short_size == 126 ? 4 : 10;
        if (n < before) return 0;
        size = short_size;
        if (before > 2) {
            size = 0;
            for (size_t i = 2; i < before; i++) size = size << 8 | p[i];
        }
        if ((p[0] & 0xf) > 2) { /* a ping or the end: nothing that load has to answer */
            m->type = OTHER;
            c->skip = size;
            return before;
        }
    }
    if (n < before + 6) return 0;
    p += before;
    m->type = p[4] >> 2;
    m->flags = (p[4] & 3) << 8 | p[5];
    m->id = u32(p);
    size_t head = 6;
    if (m->type == STREAM || m->type == CHANNEL || m->type == REQUEST_N || m->type == ERROR) {
        head = 10;
        if (n < before + head) return 0;
        m->n = u32(p + 6);
    }
    if (m->type == ERROR) {
        size_t text = size - head, here = n - before - head, most = sizeof m->text - 1;
        if (text > here) text = here;
        if (text > most) text = most;
        memcpy(m->text, p + head, text);
        m->text[text] = 0;
    }
    c->skip = size - head;
    return before + head;
}

static size_t parse_nats(conn *c, const unsigned char *p, size_t n) {
    message *m = &c->head;
    const unsigned char *end = memchr(p, '\n', n < CARRY ? n : CARRY);
    if (!end) {
        if (n >= CARRY) fail("nats-server sent a line longer than", "1024 bytes");
        return 0;
    }
    char line[CARRY];
    size_t size = end - p;
    memcpy(line, p, size);
    line[size] = 0;
    c->skip = 0;
    m->type = OTHER;
    if (!strncmp(line, "MSG ", 4)) {
        char *words[6] = {0}, *save;
        int count = 0;
        for (char *w = strtok_r(line, " \r", &save); w && count < 6; w = strtok_r(0, " \r", &save))
            words[count++] = w;
        m->type = NATS_MSG;
        c->skip = strtoul(words[count - 1], 0, 10) + 2;
        if (c->caller) {
            m->id = strtoul(strrchr(words[1], '.') + 1, 0, 10);
        } else {
            m->text[0] = 0;
            if (count == 5) snprintf(m->text, sizeof m->text, "%s", words[3]);
        }
    } else if (!strncmp(line, "PING", 4)) {
        m->type = NATS_PING;
    } else if (!strncmp(line, "PONG", 4)) {
        m->type = NATS_PONG;
    } else if (line[0] == '-') {
        m->type = NATS_ERR;
        snprintf(m->text, sizeof m->text, "%.150s", line);
    }
    return size + 1;
}

static size_t (*parse)(conn *c, const unsigned char *p, size_t n) = parse_rsocket;

/* Read once and call TAKE for each message that is whole. Returns false at the end. */
static bool receive(conn *c, void (*take)(conn *)) {
    unsigned char *p = read_buffer + CARRY - c->carried;
    ssize_t k = raw_read(c, read_buffer + CARRY, READ_SIZE);
    if (k < 0 && errno == EAGAIN) return true;
    if (k <= 0) return false;
    memcpy(p, c->carry, c->carried);
    c->carried = 0;
    unsigned char *end = read_buffer + CARRY + k;
    while (p < end) {
        if (c->skip) {
            size_t step = (size_t)(end - p) < c->skip ? (size_t)(end - p) : c->skip;
            p += step;
            c->skip -= step;
        } else {
            size_t head = parse(c, p, end - p);
            if (!head) {
                c->carried = end - p;
                memcpy(c->carry, p, c->carried);
                break;
            }
            p += head;
        }
        if (!c->skip) take(c);
    }
#ifdef WITH_TLS
    if (c->ssl && SSL_pending(c->ssl)) return receive(c, take);
#endif
    return true;
}

/* Connecting */

static void nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

/* SPREAD gives connection I a loopback address of its own kind, 1,000 share one: brokers limit the
 * connections of one address, and the system has 28,000 ports for each. */
static int dial(const char *address, bool spread, int i) {
    int one = 1, fd;
    if (!strncmp(address, "unix:", 5)) {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        memccpy(at.sun_path, address + 5, 0, sizeof at.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (void *)&at, sizeof at)) fail("connect", strerror(errno));
        return fd;
    }
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons(atoi(strchr(address, ':') + 1));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) fail("socket", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (spread) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + i / 1000 % 200);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(fd, (void *)&from, sizeof from)) fail("bind", strerror(errno));
    }
    if (connect(fd, (void *)&at, sizeof at)) fail("connect", strerror(errno));
    return fd;
}

static void write_all(conn *c, const void *p, size_t n) {
    while (n) {
        ssize_t k = raw_write(c, p, n);
        if (k <= 0) fail("write while connecting", strerror(errno));
        p = (const char *)p + k;
        n -= k;
    }
}

static void start_tls(conn *c) {
#ifdef WITH_TLS
    static SSL_CTX *context;
    if (!context) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    c->ssl = SSL_new(context);
    SSL_set_fd(c->ssl, c->fd);
    if (SSL_connect(c->ssl) != 1) fail("TLS", "the handshake failed");
#else
    (void)c;
    fail("TLS", "this load was built without OpenSSL");
#endif
}

static void start_websocket(conn *c) {
    static const char request[] =
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    char answer[4096];
    size_t n = 0;
    write_all(c, request, sizeof request - 1);
    do {
        ssize_t k = n < sizeof answer - 1 ? raw_read(c, answer + n, 1) : 0;
        if (k <= 0) fail("WebSocket", "the handshake was not answered");
        answer[++n] = 0;
    } while (n < 4 || memcmp(answer + n - 4, "\r\n\r\n", 4));
    if (!strstr(answer, " 101 ")) fail("WebSocket", "the handshake was refused");
    c->websocket = true;
}
