/* Raw frames as load: callers and the services that answer them, in one process and one thread.
 *
 * Far cheaper than what it measures, and it says what it cost. Nothing is decided here: frames,
 * counts and rates come as `KEY VALUE` lines on stdin, up to a line with a dot; the result is one
 * line of JSON. `benchmarks/raw.py` writes the one and reads the other.
 *
 * Open loop: call I is meant for begin + I / rate, and its latency counts from then, however late it
 * was sent; so a middle that stands still is charged for every call it kept from being made. */

#define _GNU_SOURCE
#include "wire.h"
#include "http2.h"
#include <dirent.h>
#include <math.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>

enum { MOST_BUCKETS = 64 * 64, BATCH = 256 * 1024, SUB_BUCKETS = 64, ACCEPTED = 10000, ENOUGH = 50 };
static const uint64_t SECOND = 1000000000;
static const uint32_t UNLIMITED = 0x7fffffff;

typedef struct { unsigned char *bytes; size_t size; } blob;

static struct {
    char address[200], op[16], protocol[16], pids[400], subject[100];
    long callers, providers, in_flight, payload, answer, credit, routes, streams, stopped, count;
    long spread, group, listen, warm_in_flight;
    double rate, seconds, warm;
    blob caller_setup, provider_setup, request;
    long digits_at, instance_at;
} spec;

static bool http2;
static conn *callers, *providers;
static int poller, listener = -1;
static uint64_t begin_at, end_at, next_intended;
static uint64_t calls, failed, bytes_in, late_total, late_count, outstanding, sent_total, fnf_seen;
static uint64_t buckets[MOST_BUCKETS];
static bool measuring, stopping, hungry;
static char first_error[160];
static long turn_of_caller, turn_of_route, owed, allowed; /* allowed: calls in flight, now */

/* Who has something to send: written once per turn, after all that came was looked at. */
static conn **touched;
static long touched_count;

static void touch(conn *c) {
    if (!c->touched) c->touched = true, touched[touched_count++] = c;
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

/* What the middle used so far: the scheduler's account of every thread of its processes. */
static uint64_t cpu_of_middle(void) {
    uint64_t total = 0;
    char pids[sizeof spec.pids], *save;
    strcpy(pids, spec.pids);
    for (char *pid = strtok_r(pids, ",", &save); pid; pid = strtok_r(0, ",", &save)) {
        char path[400];
        snprintf(path, sizeof path, "/proc/%.20s/task", pid);
        DIR *tasks = opendir(path);
        if (!tasks) fail("the middle has ended", pid);
        for (struct dirent *task; (task = readdir(tasks));) {
            uint64_t used;
            snprintf(path, sizeof path, "/proc/%.20s/task/%.20s/schedstat", pid, task->d_name);
            FILE *file = task->d_name[0] == '.' ? 0 : fopen(path, "r");
            if (!file) continue;
            if (fscanf(file, "%lu", &used) == 1) total += used;
            fclose(file);
        }
        closedir(tasks);
    }
    return total;
}

static void count_latency(uint64_t ns) {
    int n = (int)ns;
    if (ns >= SUB_BUCKETS) {
        int shift = 63 - __builtin_clzll(ns) - 6;
        n = (shift + 1) * SUB_BUCKETS + (int)(ns >> shift) - SUB_BUCKETS;
    }
    buckets[n < MOST_BUCKETS ? n : MOST_BUCKETS - 1]++;
}

/* Streams of one connection: a slot per id; ids go up by 2, so slots come back after 65,536. */
static stream *slot(conn *c, uint32_t id) {
    if (!c->streams) {
        c->streams = calloc(STREAMS, sizeof *c->streams);
        c->active = malloc(STREAMS * sizeof *c->active);
        if (!c->streams || !c->active) fail("out of memory", "streams");
    }
    return &c->streams[(id >> 1) & (STREAMS - 1)];
}

static void add_credit(stream *s, uint32_t n) {
    s->credit = n > UNLIMITED - s->credit ? UNLIMITED : s->credit + n;
}

static bool is(const char *op) { return !strcmp(spec.op, op); }

static void digits(unsigned char *at, long value) {
    for (int i = 4; i >= 0; i--, value /= 10) at[i] = '0' + value % 10;
}

/* The caller's side */

static size_t left_of(conn *c, uint32_t id) { return slot(c, id)->waiting; }
static int64_t window_of(conn *c, uint32_t id) { return slot(c, id)->credit; }
static void data_sent(conn *c, uint32_t id, size_t n) {
    slot(c, id)->waiting -= n;
    slot(c, id)->credit -= n;
}
static void pump_http2(conn *c) { h2_pump(c, left_of, data_sent, window_of); }

static void send_call(conn *c, uint64_t intended) {
    static char line[400];
    uint32_t id = c->next_id;
    c->next_id += 2;
    touch(c);
    sent_total++;
    outstanding++;
    slot(c, id)->intended = intended;
    long route = spec.routes > 1 ? turn_of_route++ % spec.routes : 0;
    if (http2) {
        bool first = id == 1;
        size_t n = (first ? sizeof H2_FIRST : sizeof H2_LATER) - 1;
        int end = H2_END_HEADERS | (spec.payload ? 0 : H2_END_STREAM);
        memcpy(h2_frame(c, n, H2_HEADERS, end, id), first ? H2_FIRST : H2_LATER, n);
        slot(c, id)->waiting = (uint32_t)spec.payload;
        slot(c, id)->credit = (uint32_t)c->stream_window;
        slot(c, id)->active = false; /* until its answer has begun */
        slot(c, id)->consumed = 0;   /* until it has ended */
        c->active[c->actives++] = id;
        pump_http2(c);
        return;
    }
    if (nats) {
        char subject[140];
        if (spec.routes > 1) snprintf(subject, sizeof subject, "%s.%05ld", spec.subject, route);
        else snprintf(subject, sizeof subject, "%s", spec.subject);
        int n = is("fnf") ? snprintf(line, sizeof line, "PUB %s %ld\r\n", subject, spec.payload)
                          : snprintf(line, sizeof line, "PUB %s _INBOX.bench.%d.%u %ld\r\n", subject,
                                     c->index, id, spec.payload);
        unsigned char *p = room(c, n + spec.payload + 2);
        memcpy(p, line, n);
        memset(p + n, 'x', spec.payload);
        memcpy(p + n + spec.payload, "\r\n", 2);
        return;
    }
    size_t payload = is("stream") ? 0 : spec.payload;
    unsigned char *p = put(c, spec.request.bytes, spec.request.size, payload);
    put_u32(p, id);
    if (spec.routes > 1) digits(p + spec.digits_at, route);
    stream *s = slot(c, id);
    s->credit = s->consumed = s->waiting = 0;
}

static conn *next_caller(void) { return &callers[turn_of_caller++ % spec.callers]; }

/* One call is over: its latency, and in a closed loop the next one. */
static void done(conn *c, uint32_t id) {
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    if (http2) slot(c, id)->consumed = 1;
    outstanding--;
    if (measuring) {
        calls++;
        bytes_in += spec.answer;
        count_latency(now - slot(c, id)->intended);
    }
    if (!spec.rate && !stopping && (long)outstanding + owed < allowed) owed++;
}

static void refused(conn *c, const char *text) {
    if (!first_error[0]) snprintf(first_error, sizeof first_error, "%s", text);
    if (c->head.id == 0 && !nats && !http2) fail("the middle closed the connection", text);
    failed += measuring;
    outstanding--;
    if (!spec.rate && !stopping && (long)outstanding + owed < allowed) owed++;
}

static void item_arrived(conn *c, uint32_t id) {
    stream *s = slot(c, id);
    if (measuring) calls++, bytes_in += spec.answer;
    if ((long)++s->consumed * 2 >= spec.credit && spec.credit < UNLIMITED) {
        put_request_n(c, id, s->consumed);
        s->consumed = 0;
        touch(c);
    }
    if (!is("channel") || stopping) return;
    s->waiting++; /* an echo came back: one more may go out, as soon as there is credit */
    for (; s->waiting && s->credit; s->waiting--) {
        if (s->credit < UNLIMITED) s->credit--;
        put_small(c, id, PAYLOAD, NEXT, spec.payload);
        touch(c);
    }
}

static void take_as_caller(conn *c) {
    message *m = &c->head;
    switch (m->type) {
    case PAYLOAD:
        if (is("stream") || is("channel")) item_arrived(c, m->id);
        else done(c, m->id);
        break;
    case NATS_MSG: done(c, m->id); break;
    case REQUEST_N: {
        stream *s = slot(c, m->id);
        add_credit(s, m->n);
        for (; s->waiting && s->credit; s->waiting--) {
            if (s->credit < UNLIMITED) s->credit--;
            put_small(c, m->id, PAYLOAD, NEXT, spec.payload);
            touch(c);
        }
        break;
    }
    case ERROR: case NATS_ERR: refused(c, m->text); break;
    case NATS_PING: memcpy(room(c, 6), "PONG\r\n", 6), touch(c); break;
    }
}

/* HTTP/2 statuses that are an error: 4xx and 5xx of the static table, or spelled out. */
static bool is_error(uint32_t first) { return (first >= 0x8c && first <= 0x8e) || first == 0x48 || first == 8; }

/* Behind a proxy we are the service as well: 200, a content type, and the data. */
static void answer_http2(conn *c) {
    static const unsigned char head[] = "\x88\x5f\x10" "application/grpc";
    uint32_t id = c->head.id;
    int end = H2_END_HEADERS | (spec.answer ? 0 : H2_END_STREAM);
    memcpy(h2_frame(c, sizeof head - 1, H2_HEADERS, end, id), head, sizeof head - 1);
    stream *s = slot(c, id);
    s->waiting = (uint32_t)spec.answer;
    s->credit = (uint32_t)c->stream_window + s->opened;
    s->opened = 0;
    c->active[c->actives++] = id;
    pump_http2(c);
    touch(c);
}

static void take_http2(conn *c) {
    message *m = &c->head;
    switch (m->type - HTTP2) {
    case H2_HEADERS:
        if (!c->caller) {
            slot(c, m->id)->waiting = slot(c, m->id)->opened = 0;
            if (m->flags & H2_END_STREAM) answer_http2(c);
            break;
        }
        if (!slot(c, m->id)->active && is_error(m->n)) {
            if (!first_error[0]) strcpy(first_error, "an HTTP status that is no success");
            failed += measuring;
        }
        slot(c, m->id)->active = true;
        if (m->flags & H2_END_STREAM) done(c, m->id);
        break;
    case H2_DATA:
        c->unreported += m->n;
        if (c->unreported > MANY / 4) {
            put_u32(h2_frame(c, 4, H2_WINDOW, 0, 0), (uint32_t)c->unreported);
            c->unreported = 0;
            touch(c);
        }
        if (m->flags & H2_END_STREAM && c->caller) done(c, m->id);
        else if (m->flags & H2_END_STREAM) answer_http2(c);
        break;
    case H2_SETTINGS:
        if (!(m->flags & H2_ACK)) h2_frame(c, 0, H2_SETTINGS, H2_ACK, 0), touch(c);
        break;
    case H2_PING:
        if (!(m->flags & H2_ACK)) memcpy(h2_frame(c, 8, H2_PING, H2_ACK, 0), m->text, 8), touch(c);
        break;
    case H2_WINDOW:
        if (m->id && !c->caller && !slot(c, m->id)->waiting) slot(c, m->id)->opened += m->n;
        else if (m->id) slot(c, m->id)->credit += m->n;
        else c->window += m->n;
        if (c->actives) pump_http2(c), touch(c);
        break;
    case H2_RST: /* of a stream that has ended it means nothing */
        slot(c, m->id)->waiting = 0;
        if (c->caller && !slot(c, m->id)->consumed) refused(c, m->text);
        break;
    case H2_GOAWAY:
        if (c->caller) fail("the proxy closed the connection", m->text);
    }
}

/* The service's side */

static void answer_nats(conn *c) {
    char line[300];
    message *m = &c->head;
    if (!m->text[0]) { fnf_seen++; return; }
    int n = snprintf(line, sizeof line, "PUB %s %ld\r\n", m->text, spec.answer);
    unsigned char *p = room(c, n + spec.answer + 2);
    memcpy(p, line, n);
    memset(p + n, 'x', spec.answer);
    memcpy(p + n + spec.answer, "\r\n", 2);
    touch(c);
}

/* An item of a channel came: send it back, now or as soon as there is credit, and ask for more. */
static void echo_item(conn *c, uint32_t id) {
    stream *s = slot(c, id);
    s->waiting++;
    if ((long)++s->consumed * 2 >= spec.credit && spec.credit < UNLIMITED) {
        put_request_n(c, id, s->consumed);
        s->consumed = 0;
    }
    for (; s->waiting && s->credit; s->waiting--) {
        if (s->credit < UNLIMITED) s->credit--;
        put_small(c, id, PAYLOAD, NEXT, spec.answer);
    }
    touch(c);
}

static void take_as_provider(conn *c) {
    message *m = &c->head;
    stream *s;
    touch(c);
    switch (m->type) {
    case RESPONSE: put_small(c, m->id, PAYLOAD, NEXT | COMPLETE, spec.answer); break;
    case FNF: fnf_seen++; break;
    case STREAM:
        if (is("hold")) break;
        s = slot(c, m->id);
        *s = (stream){.credit = m->n, .active = true};
        c->active[c->actives++] = m->id;
        break;
    case CHANNEL:
        s = slot(c, m->id);
        *s = (stream){.credit = m->n};
        put_request_n(c, m->id, (uint32_t)spec.credit);
        echo_item(c, m->id);
        break;
    case REQUEST_N:
        s = slot(c, m->id);
        add_credit(s, m->n);
        for (; s->waiting && s->credit; s->waiting--) {
            if (s->credit < UNLIMITED) s->credit--;
            put_small(c, m->id, PAYLOAD, NEXT, spec.answer);
        }
        break;
    case PAYLOAD: echo_item(c, m->id); break;
    case KEEPALIVE:
        if (m->flags & RESPOND) put_small(c, 0, KEEPALIVE, 0, 8);
        break;
    case CANCEL: case ERROR:
        if (m->id == 0) fail("the middle closed the service's connection", m->text);
        slot(c, m->id)->credit = 0;
        slot(c, m->id)->active = false;
        break;
    case NATS_MSG: answer_nats(c); break;
    case NATS_PING: memcpy(room(c, 6), "PONG\r\n", 6); break;
    case NATS_ERR: fail("nats-server closed the service's connection", m->text);
    }
}

/* Send items of all open streams in turns, as far as credit and the batch reach. */
static void pump(conn *c) {
    bool more = c->actives > 0;
    while (more && c->out_len - c->out_at < BATCH) {
        more = false;
        for (uint32_t i = 0; i < c->actives; i++) {
            uint32_t id = c->active[i];
            stream *s = slot(c, id);
            if (!s->active) { c->active[i--] = c->active[--c->actives]; continue; }
            for (int k = 0; k < 32 && s->credit; k++) {
                if (s->credit < UNLIMITED) s->credit--;
                put_small(c, id, PAYLOAD, NEXT, spec.answer);
            }
            more |= s->credit > 0;
        }
        touch(c);
    }
    hungry |= more && !stopping;
}

/* Connecting, in order and blocking */

static int wanted;
static bool seen;

static void take_verdict(conn *c) {
    if (c->head.type == ERROR || c->head.type == NATS_ERR) fail("refused", c->head.text);
    seen |= c->head.type == wanted;
    if (http2) take_http2(c); /* windows come with the first batch */
}

static void wait_for(conn *c, int type) {
    wanted = type;
    seen = false;
    while (!seen)
        if (!receive(c, take_verdict)) fail("the connection ended", "before it was accepted");
}

static void watch(conn *c) {
    nonblocking(c->fd);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll", strerror(errno));
}

static void introduce_nats(conn *c) {
    char text[400];
    const char *group = spec.group ? " workers" : "";
    char skip[CARRY * 4];
    if (raw_read(c, skip, sizeof skip) <= 0) fail("nats-server", "sent no INFO");
    int n = snprintf(text, sizeof text, "CONNECT {\"verbose\":false,\"echo\":false}\r\n");
    if (c->caller) n += snprintf(text + n, sizeof text - n, "SUB _INBOX.bench.%d.* 1\r\n", c->index);
    else if (spec.routes <= 1)
        n += snprintf(text + n, sizeof text - n, "SUB %s%s 1\r\n", spec.subject, group);
    write_all(c, text, n);
    if (!c->caller && spec.routes > 1)
        for (long i = 0; i < spec.routes; i++)
            write_all(c, text, snprintf(text, sizeof text, "SUB %s.%05ld %ld\r\n", spec.subject, i, i + 1));
    write_all(c, "PING\r\n", 6);
    wait_for(c, NATS_PONG);
}

static void introduce(conn *c) {
    blob setup = c->caller ? spec.caller_setup : spec.provider_setup;
    unsigned char *p = put(c, setup.bytes, setup.size, 0);
    if (!c->caller && spec.instance_at) digits(p + spec.instance_at, c->index);
    static const unsigned char alive[14] = {0, 0, 0, 0, KEEPALIVE << 2, RESPOND};
    put(c, alive, sizeof alive, 0);
    write_all(c, c->out, c->out_len);
    c->out_len = c->out_at = 0;
    wait_for(c, KEEPALIVE);
}

/* A proxy connects to the service behind it, or our own caller does. */
static void accept_http2(void) {
    for (int fd; (fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0;) {
        int one = 1;
        conn *c = calloc(1, sizeof *c);
        if (!c) fail("out of memory", "connection");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        c->skip = 24; /* the client's preface */
        c->head.type = OTHER;
        h2_settings(c);
        touch(c);
        watch(c);
    }
}

static void listen_at(int port) {
    int one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons(port);
    listener = socket(AF_INET, SOCK_STREAM | (http2 ? SOCK_NONBLOCK : 0), 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 4096)) fail("listen", strerror(errno));
    socklen_t size = sizeof at;
    getsockname(listener, (void *)&at, &size);
    if (!strcmp(spec.address, "self")) snprintf(spec.address, sizeof spec.address, "tcp:%d", ntohs(at.sin_port));
}

static void open_connection(conn *c, int index, bool caller) {
    c->index = index;
    c->caller = caller;
    c->next_id = 1;
    c->fd = dial(spec.address, spec.spread, index);
    if (!strncmp(spec.address, "tls:", 4)) start_tls(c);
    if (!strncmp(spec.address, "ws:", 3)) start_websocket(c);
    if (http2) {
        h2_hello(c);
        write_all(c, c->out, c->out_len);
        c->out_len = c->out_at = 0;
        accept_http2();
        while (touched_count) touched[--touched_count]->touched = false, flush(touched[touched_count]);
        wait_for(c, HTTP2_SETTINGS);
    }
    if (nats) introduce_nats(c);
    else if (!strcmp(spec.protocol, "rsocket")) introduce(c);
}

static void connect_all(void) {
    callers = calloc(spec.callers, sizeof *callers);
    providers = calloc(spec.providers, sizeof *providers);
    touched = calloc(spec.callers + spec.providers + ACCEPTED, sizeof *touched);
    /* A direct call: the other end is ours as well. Behind an HTTP/2 proxy it always is. */
    bool direct = !strcmp(spec.address, "self");
    if (direct || http2) listen_at((int)spec.listen);
    if (http2) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener};
        epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    }
    bool paired = !http2 && (direct || !strcmp(spec.protocol, "bytes"));
    for (int i = 0; i < spec.providers; i++) {
        if (!direct) open_connection(&providers[i], i, false);
        if (!paired) continue;
        open_connection(&callers[i], i, true);
        if (direct) {
            int one = 1;
            providers[i].fd = accept(listener, 0, 0);
            setsockopt(providers[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        }
    }
    for (int i = 0; !paired && i < spec.callers; i++) open_connection(&callers[i], i, true);
    for (int i = 0; i < spec.providers; i++) watch(&providers[i]);
    for (int i = 0; i < spec.callers; i++) watch(&callers[i]);
}

/* The loop */

static void settle(conn *c) {
    c->touched = false;
    if (c->blocked) return;
    flush(c);
    if (!c->blocked) return;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void settle_all(void) {
    while (touched_count) settle(touched[--touched_count]);
}

static void on_event(struct epoll_event *event) {
    conn *c = event->data.ptr;
    if (event->events & EPOLLOUT) {
        flush(c);
        if (!c->blocked) {
            struct epoll_event calm = {.events = EPOLLIN, .data.ptr = c};
            epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &calm);
        }
    }
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (c->stopped) { /* the slow consumer: never read again */
            epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, 0);
            return;
        }
        if (!receive(c, http2 ? take_http2 : c->caller ? take_as_caller : take_as_provider) &&
            !stopping) {
            if (http2 && !c->caller) { /* a proxy may close what it no longer needs */
                epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, 0);
                close(c->fd);
                return;
            }
            fail("the middle closed a connection", c->caller ? "of a caller" : "of the service");
        }
    }
}

/* Calls that are due: by the clock in an open loop, otherwise one for each that is over. */
static void send_due(uint64_t now) {
    if (stopping) return;
    if (spec.rate) {
        double interval = SECOND / spec.rate;
        for (; next_intended <= now && outstanding < STREAMS / 2; ) {
            send_call(next_caller(), next_intended);
            if (measuring) late_total += now - next_intended, late_count++;
            next_intended = begin_at + (uint64_t)((double)sent_total * interval);
        }
        return;
    }
    if (is("fnf")) {
        static uint64_t seen_before;
        uint64_t arrived = fnf_seen - seen_before;
        if (arrived > outstanding) arrived = outstanding;
        outstanding -= arrived;
        seen_before = fnf_seen;
        calls += measuring ? arrived : 0;
        owed = spec.in_flight - (long)outstanding;
    }
    for (; owed > 0; owed--) send_call(next_caller(), now);
}

static void run_until_end(void) {
    static struct epoll_event events[512];
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event tick = {.events = EPOLLIN, .data.ptr = 0};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &tick);
    uint64_t cpu = 0, own = 0, measure_at = begin_at + (uint64_t)(spec.warm * SECOND), measured = 0;
    uint64_t moved_at = begin_at, last = 0, stopped_at = 0;
    for (;;) {
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        if (now >= measure_at) allowed = spec.in_flight;
        bool settled = spec.rate || !is("call") || (long)outstanding <= allowed;
        if (!measuring && !stopping && now >= measure_at && settled) {
            measuring = true;
            cpu = cpu_of_middle();
            own = now_ns(CLOCK_PROCESS_CPUTIME_ID);
            measured = now_ns(CLOCK_MONOTONIC);
        }
        /* On a busy machine the whole time may pass without us: then a little longer. */
        if (measuring && now >= end_at && (calls >= ENOUGH || now > end_at + 5 * SECOND)) {
            cpu = cpu_of_middle() - cpu;
            own = now_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
            measured = now - measured;
            measuring = false;
            stopping = true;
            stopped_at = now;
        }
        if (calls + fnf_seen + failed != last) last = calls + fnf_seen + failed, moved_at = now;
        if (stopping && (!outstanding || is("stream") || is("channel") || is("fnf") ||
                         now > stopped_at + SECOND / 2))
            break;
        if (!stopping && now - moved_at > 20 * SECOND) fail("nothing has moved for", "20 s");
        send_due(now);
        hungry = false;
        for (int i = 0; is("stream") && i < spec.providers; i++)
            if (!providers[i].blocked) pump(&providers[i]);
        settle_all();
        if (spec.rate && !stopping) {
            struct itimerspec when = {.it_value = {next_intended / SECOND, next_intended % SECOND}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, 0);
        }
        int n = epoll_wait(poller, events, 512, hungry ? 0 : 20);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &listener) accept_http2();
            else if (events[i].data.ptr) on_event(&events[i]);
            else if (read(timer, &tick, 8) < 0) continue;
        }
    }
    printf("{\"calls\":%lu,\"failed\":%lu,\"seconds\":%.9f,\"middle_cpu\":%.9f,\"load_cpu\":%.9f,"
           "\"bytes\":%lu,\"late_ns\":%.1f,\"error\":\"", calls, failed, measured / 1e9, cpu / 1e9,
           own / 1e9, bytes_in, late_count ? (double)late_total / late_count : 0.0);
    for (char *p = first_error; *p; p++) putchar(*p < ' ' || *p == '"' || *p == '\\' ? ' ' : *p);
    printf("\",\"buckets\":[");
    const char *comma = "";
    for (int i = 0; i < MOST_BUCKETS; i++)
        if (buckets[i]) printf("%s[%d,%lu]", comma, i, buckets[i]), comma = ",";
    printf("]}\n");
}

/* Connect, be accepted, close: as often as the time allows. */
static void churn(void) {
    uint64_t cpu = cpu_of_middle(), own = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t from = now_ns(CLOCK_MONOTONIC), now = from;
    while (now < from + (uint64_t)(spec.seconds * SECOND) && calls < (uint64_t)spec.count) {
        static conn fresh;
        memset(&fresh, 0, offsetof(conn, out));
        open_connection(&fresh, (int)(calls % 200) * 1000, true);
#ifdef WITH_TLS
        if (fresh.ssl) SSL_free(fresh.ssl), fresh.ssl = 0;
#endif
        close(fresh.fd);
        calls++;
        uint64_t then = now;
        now = now_ns(CLOCK_MONOTONIC);
        count_latency(now - then);
    }
    usleep(50000); /* let it clean up: that is part of the cost */
    printf("{\"calls\":%lu,\"failed\":0,\"seconds\":%.9f,\"middle_cpu\":%.9f,\"load_cpu\":%.9f,"
           "\"bytes\":0,\"late_ns\":0,\"error\":\"\",\"buckets\":[", calls, (now - from) / 1e9,
           (cpu_of_middle() - cpu) / 1e9, (now_ns(CLOCK_PROCESS_CPUTIME_ID) - own) / 1e9);
    const char *comma = "";
    for (int i = 0; i < MOST_BUCKETS; i++)
        if (buckets[i]) printf("%s[%d,%lu]", comma, i, buckets[i]), comma = ",";
    printf("]}\n");
}

/* Let everything stand until stdin ends; another program looks at the middle meanwhile. */
static void hold(void) {
    if (is("hold"))
        for (long i = 0; i < spec.streams; i++) {
            conn *c = next_caller();
            send_call(c, 0);
            if (i % 100 == 99 || i == spec.streams - 1) settle_all();
        }
    struct epoll_event events[64];
    uint64_t until = now_ns(CLOCK_MONOTONIC) + SECOND / 2;
    while (now_ns(CLOCK_MONOTONIC) < until) {
        int n = epoll_wait(poller, events, 64, 20);
        for (int i = 0; i < n; i++) on_event(&events[i]);
        settle_all();
    }
    if (failed || first_error[0]) fail("a stream was refused", first_error);
    printf("{\"up\":true}\n");
    fflush(stdout);
    while (getchar() != EOF) continue;
}

/* The spec on stdin */

static blob unhex(const char *text) {
    blob found = {malloc(strlen(text) / 2 + 1), strlen(text) / 2};
    for (size_t i = 0; i < found.size; i++) {
        unsigned byte;
        sscanf(text + 2 * i, "%2x", &byte);
        found.bytes[i] = byte;
    }
    return found;
}

static void set(const char *key, const char *value) {
    struct { const char *key; char *text; } texts[] = {
        {"address", spec.address}, {"op", spec.op}, {"protocol", spec.protocol},
        {"pids", spec.pids}, {"subject", spec.subject}};
    struct { const char *key; long *number; } numbers[] = {
        {"callers", &spec.callers}, {"providers", &spec.providers}, {"in_flight", &spec.in_flight},
        {"payload", &spec.payload}, {"answer", &spec.answer}, {"credit", &spec.credit},
        {"routes", &spec.routes}, {"streams", &spec.streams}, {"stopped", &spec.stopped},
        {"count", &spec.count}, {"spread", &spec.spread}, {"listen", &spec.listen}, {"warm_in_flight", &spec.warm_in_flight}, {"group", &spec.group},
        {"digits_at", &spec.digits_at}, {"instance_at", &spec.instance_at}};
    struct { const char *key; double *number; } reals[] = {
        {"rate", &spec.rate}, {"seconds", &spec.seconds}, {"warm", &spec.warm}};
    struct { const char *key; blob *frame; } frames[] = {
        {"caller_setup", &spec.caller_setup}, {"provider_setup", &spec.provider_setup},
        {"request", &spec.request}};
#define EACH(list) for (size_t i = 0; i < sizeof list / sizeof *list; i++) if (!strcmp(key, list[i].key))
    EACH(texts) { strcpy(texts[i].text, value); return; }
    EACH(numbers) { *numbers[i].number = atol(value); return; }
    EACH(reals) { *reals[i].number = atof(value); return; }
    EACH(frames) { *frames[i].frame = unhex(value); return; }
    fail("unknown key", key);
}

static void read_spec(void) {
    char *line = 0;
    size_t size = 0;
    while (getline(&line, &size, stdin) > 0 && line[0] != '.') {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, ' ');
        if (!value) fail("no value", line);
        *value++ = 0;
        set(line, value);
    }
    nats = !strcmp(spec.protocol, "nats");
    http2 = !strcmp(spec.protocol, "http2");
    if (nats) parse = parse_nats;
    if (http2) parse = parse_http2, spec.providers = 0;
}

int main(void) {
    read_spec();
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1); /* the usual 50 us would be in every open-loop latency */
    if (is("churn")) { churn(); return 0; }
    poller = epoll_create1(0);
    connect_all();
    if (is("idle") || is("hold")) { hold(); return 0; }
    begin_at = next_intended = now_ns(CLOCK_MONOTONIC);
    end_at = begin_at + (uint64_t)((spec.warm + spec.seconds) * SECOND);
    if (is("stream") || is("channel")) {
        for (long i = 0; i < spec.streams; i++) send_call(next_caller(), begin_at);
        for (long i = 0; i < spec.stopped; i++) callers[i].stopped = true;
        if (is("channel")) /* what is in flight beside the first item, shared by all channels */
            for (long i = spec.streams; i < spec.in_flight; i++) {
                conn *c = &callers[i % spec.callers];
                slot(c, 1 + 2 * (uint32_t)(i % spec.streams / spec.callers))->waiting++;
            }
    } else {
        allowed = spec.warm_in_flight > spec.in_flight ? spec.warm_in_flight : spec.in_flight;
        owed = spec.rate ? 0 : allowed;
    }
    run_until_end();
    return 0;
}
