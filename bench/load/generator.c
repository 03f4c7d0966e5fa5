/*
 * Makes the load: many websockets to one loopback port in one thread, driven by epoll, so that the generator is far from
 * being the limit. It sleeps when there is nothing to do, and reports its share of a core.
 *
 * Commands on standard input, one a line, with fields separated by tabs:
 *   port N                   where to connect, on 127.0.0.1
 *   ids                      give every message a client_id of its own
 *   wrap A B C               put A before and B after every message; C is how a delivery starts (default: a message_added)
 *   greet TEXT               send TEXT after the first frame has arrived (Socket.IO)
 *   socket ROLE PATH HEADERS one websocket; HEADERS are lines separated by \x1f; ROLE is w (writes), r (reads), c (a console:
 *                            deliveries to it are counted apart) or f (floods: deliveries to it are not counted)
 *   sink                     a flooding socket from the generator to itself, without a server
 *   connect N                connect all of them, N handshakes at a time, and wait until nothing arrives any more
 *   run SECONDS WARM FLIGHT  closed loop: every writer keeps FLIGHT messages in flight
 *   rate SECONDS WARM R F    open loop: R messages a second in all, from each writer in turn, always on schedule, and F
 *                            a second from flooding sockets, as far as they can be sent; messages due within the time
 *                            are counted, even if they are sent or come back later
 *   quit
 * connect, run and rate are answered with a line of JSON. Latency is counted from when a message was due, so that
 * a stalling server is measured correctly (no coordinated omission). No socket waits for another: bytes that the kernel
 * does not accept are kept and sent later. Any failure ends the program with status 1 and a message.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SCRATCH = 1 << 20, LINE = 16384, BATCH = 1024, SUB = 64, BUCKETS = 64 * SUB };

typedef struct {
    int fd, number, connected, greeted;
    char role, *path, *headers, tag[24];
    size_t tag_length;
    uint64_t sent, own;     /* messages sent, and how many of them came back */
    char *rest;             /* the beginning of an incomplete frame */
    size_t rest_length, rest_room;
    char *out;              /* bytes that the kernel has not accepted yet */
    size_t out_length, out_room;
} Socket;

typedef struct { uint64_t bucket[BUCKETS], most; } Histogram;
typedef struct { Socket **list; int count, at; } Group;
typedef struct {
    uint64_t deliveries, to_consoles, messages, refused;    /* received */
    uint64_t sent, flooded;                                 /* sent */
} Counts;

static Socket *sockets;
static Group writers, flooders;
static int count, capacity, upgraded, poller, port, with_ids, in_flight;
static char *wrap_before = "", *wrap_behind = "", *expected = NULL, *greeting = NULL;
static Counts counts;
static Histogram latency, lateness;     /* from when a message was due until its delivery, and until it was sent */
static uint64_t counted_from;           /* open loop: messages due earlier are not counted; 0 in a closed loop */
static char scratch[SCRATCH + LINE * 8];
static uint32_t mask_seed = 0x9e3779b9;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* A histogram with 64 steps to each doubling: a value is at most 1.6 % off. */
static int bucket_of(uint64_t value) {
    if (value < SUB) return (int)value;
    int shift = 63 - __builtin_clzll(value) - 6;
    int bucket = (shift + 1) * SUB + (int)((value >> shift) - SUB);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static uint64_t value_of(int bucket) {
    if (bucket < SUB) return (uint64_t)bucket;
    int shift = bucket / SUB - 1;
    return ((uint64_t)(bucket % SUB) + SUB + 1) << shift;
}

static void add(Histogram *h, uint64_t value) {
    h->bucket[bucket_of(value)]++;
    if (value > h->most) h->most = value;
}

static double quantile_us(const Histogram *h, double share) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += h->bucket[i];
    for (int i = 0; i < BUCKETS; i++) {
        seen += h->bucket[i];
        if (total && seen >= share * total) return value_of(i) / 1e3;
    }
    return 0;
}

static void watch(Socket *s, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (s->out_length ? EPOLLOUT : 0), .data.ptr = s};
    if (epoll_ctl(poller, operation, s->fd, &event)) fail("epoll: %s", strerror(errno));
}

/* Returns how many bytes the kernel accepted. */
static size_t send_some(Socket *s, const char *data, size_t length) {
    ssize_t done = send(s->fd, data, length, MSG_NOSIGNAL);
    if (done < 0 && errno != EAGAIN) fail("sending to %s: %s", s->path, strerror(errno));
    return done < 0 ? 0 : (size_t)done;
}

static void send_all(Socket *s, const char *data, size_t length) {
    size_t done = s->out_length ? 0 : send_some(s, data, length), left = length - done;
    if (!left) return;
    if (s->out_length + left > s->out_room) {
        s->out_room = (s->out_length + left) * 2;
        s->out = realloc(s->out, s->out_room);
        if (!s->out) fail("no memory");
    }
    memcpy(s->out + s->out_length, data + done, left);
    s->out_length += left;
    watch(s, EPOLL_CTL_MOD);
}

static void flush(Socket *s) {
    size_t done = send_some(s, s->out, s->out_length);
    memmove(s->out, s->out + done, s->out_length - done);
    s->out_length -= done;
    if (!s->out_length) watch(s, EPOLL_CTL_MOD);
}

static size_t frame(char *out, int opcode, const char *payload, size_t length) {
    size_t head = 2;
    out[0] = (char)(0x80 | opcode);
    if (length < 126) out[1] = (char)(0x80 | length);
    else {
        out[1] = (char)(0x80 | 126);
        out[2] = (char)(length >> 8);
        out[3] = (char)length;
        head = 4;
    }
    mask_seed = mask_seed * 1664525u + 1013904223u;
    memcpy(out + head, &mask_seed, 4);
    const char *mask = out + head;
    char *body = out + head + 4;
    for (size_t i = 0; i < length; i++) body[i] = payload[i] ^ mask[i & 3];
    return head + 4 + length;
}

static size_t message(char *out, Socket *s, uint64_t due) {
    char payload[1024], id[64] = "";
    if (with_ids) snprintf(id, sizeof id, ",\"client_id\":\"k%d-%d-%llu\"", getpid(), s->number,
        (unsigned long long)s->sent);
    int length = snprintf(payload, sizeof payload,
        "%s{\"type\":\"send_message\",\"data\":{\"text\":\"%s %llu t=%020llu %080d\",\"attachments\":[]%s}}%s", wrap_before,
        s->tag, (unsigned long long)s->sent, (unsigned long long)due, 0, id, wrap_behind);
    s->sent++;
    return frame(out, 1, payload, (size_t)length);
}

static int starts_with(const char *payload, size_t length, const char *start) {
    return length > strlen(start) && !memcmp(payload, start, strlen(start));
}

static int is_delivery(const char *payload, size_t length) {
    if (expected) return starts_with(payload, length, expected);
    return starts_with(payload, length, "{\"type\":\"message_added\"")
        || starts_with(payload, length, "{\"type\": \"message_added\"");
}

static void take_text(Socket *s, const char *payload, size_t length) {
    if (!s->greeted && greeting) {
        char out[512];
        s->greeted = 1;
        send_all(s, out, frame(out, 1, greeting, strlen(greeting)));
        return;
    }
    if (starts_with(payload, length, "{\"type\":\"message_not_added\"") && (!counted_from || now_ns() >= counted_from))
        counts.refused++;
    if (!is_delivery(payload, length) || s->role == 'f') return;
    int counted = 1;
    if (counted_from) {
        const char *at = memmem(payload, length, " t=", 3);
        uint64_t due = at && at + 23 <= payload + length ? strtoull(at + 3, NULL, 10) : 0, now = now_ns();
        counted = due >= counted_from;
        if (counted && s->role != 'c') add(&latency, now > due ? now - due : 0);
    }
    if (s->role == 'c') {
        counts.to_consoles += counted;
        return;
    }
    counts.deliveries += counted;
    if (s->role == 'w' && s->own < s->sent && memmem(payload, length, s->tag, s->tag_length)) {
        s->own++;
        counts.messages += counted;
    }
}

/* Handles every complete frame at the start of `data`. Returns how many bytes these frames had. */
static size_t take_frames(Socket *s, char *data, size_t length) {
    size_t at = 0;
    while (length - at >= 2) {
        unsigned char first = (unsigned char)data[at], second = (unsigned char)data[at + 1];
        if ((first & 0xf0) != 0x80 || second & 0x80) fail("%s sends fragments, compresses or masks", s->path);
        size_t head = 2, size = second & 127;
        if (size == 126) {
            if (length - at < 4) break;
            size = (size_t)(unsigned char)data[at + 2] << 8 | (unsigned char)data[at + 3];
            head = 4;
        } else if (size == 127) {
            if (length - at < 10) break;
            size = 0;
            for (int i = 2; i < 10; i++) size = size << 8 | (unsigned char)data[at + i];
            head = 10;
            if (size > SCRATCH / 2) fail("a frame of %zu bytes from %s", size, s->path);
        }
        if (length - at < head + size) break;
        char *payload = data + at + head;
        switch (first & 15) {
        case 1: take_text(s, payload, size); break;
        case 8:
            fail("the server closed %s with %d", s->path,
                size >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005);
            break;
        case 9: {
            char out[160];
            if (size > 125) fail("a ping of %zu bytes from %s", size, s->path);
            send_all(s, out, frame(out, 10, payload, size));
            break;
        }
        }
        at += head + size;
    }
    return at;
}

static void keep_rest(Socket *s, const char *data, size_t length) {
    if (length > s->rest_room) {
        s->rest_room = length + 512;
        s->rest = realloc(s->rest, s->rest_room);
        if (!s->rest) fail("no memory");
    }
    memcpy(s->rest, data, length);
    s->rest_length = length;
}

static void read_socket(Socket *s) {
    if (s->role == 's') {
        while (recv(s->fd, scratch, SCRATCH, 0) == SCRATCH) {}
        return;
    }
    memcpy(scratch, s->rest, s->rest_length);
    ssize_t got = recv(s->fd, scratch + s->rest_length, SCRATCH - s->rest_length, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("the server ended %s: %s", s->path, got ? strerror(errno) : "closed without a close frame");
    size_t length = s->rest_length + (size_t)got, used = 0;
    if (s->connected < 2) {
        char *end = memmem(scratch, length, "\r\n\r\n", 4);
        if (end) {
            if (memcmp(scratch, "HTTP/1.1 101", 12)) fail("%s was refused: %.60s", s->path, scratch);
            s->connected = 2;
            upgraded++;
            used = (size_t)(end + 4 - scratch);
        } else {
            keep_rest(s, scratch, length);
            return;
        }
    }
    used += take_frames(s, scratch + used, length - used);
    keep_rest(s, scratch + used, length - used);
}

static void top_up(Socket *s) {
    static char out[LINE * 4];
    size_t length = 0;
    while (s->sent - s->own < (uint64_t)in_flight && length < sizeof out - 2048) {
        length += message(out + length, s, now_ns());
        counts.sent++;
    }
    if (length) send_all(s, out, length);
}

/* Waits for input, at most that long, and reads it. Returns how many sockets had some. */
static int turn(int timeout_ms, int closed_loop) {
    struct epoll_event events[BATCH];
    int ready = epoll_wait(poller, events, BATCH, timeout_ms);
    for (int i = 0; i < ready; i++) {
        Socket *s = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) flush(s);
        if (events[i].events & ~(uint32_t)EPOLLOUT) read_socket(s);
        if (closed_loop && s->role == 'w') top_up(s);
    }
    return ready;
}

static void watch_new(Socket *s, int fd) {
    int on = 1;
    s->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    watch(s, EPOLL_CTL_ADD);
}

/* Both ends of a connection of the generator to itself: one sends, the other reads. */
static void loop_back(Socket *s, Socket *other) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), from = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1)
        || getsockname(listener, (struct sockaddr *)&address, &size) || connect(from, (struct sockaddr *)&address, size))
        fail("sink: %s", strerror(errno));
    watch_new(s, from);
    watch_new(other, accept(listener, NULL, NULL));
    close(listener);
    s->connected = other->connected = 2;
    upgraded += 2;
}

static void start_connecting(Socket *s) {
    if (s->role == 's') return;
    if (!*s->path) {
        loop_back(s, s + 1);
        return;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    /* Beyond 28,000 sockets one local address has no ports left: spread them over 127.0.0.2 and on. */
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001u + (uint32_t)(s->number / 20000))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) fail("socket %d: %s", s->number, strerror(errno));
    if (s->number >= 20000 && bind(fd, (struct sockaddr *)&from, sizeof from)) fail("bind: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("port %d: %s", port, strerror(errno));
    watch_new(s, fd);
    char out[LINE], key[25] = "AAAAAAAAAAAAAAAAAAAAAA==";
    snprintf(key, sizeof key, "%08dAAAAAAAAAAAAA", s->number);
    key[21] = 'A';
    key[22] = key[23] = '=';
    int length = snprintf(out, sizeof out,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", s->path, port, key);
    for (char *h = s->headers, *next; h && *h; h = next) {
        next = strchr(h, '\x1f');
        int size = next ? (int)(next++ - h) : (int)strlen(h);
        length += snprintf(out + length, sizeof out - (size_t)length, "%.*s\r\n", size, h);
    }
    length += snprintf(out + length, sizeof out - (size_t)length, "\r\n");
    s->connected = 1;
    send_all(s, out, (size_t)length);
}

static Group group_of(char role) {
    Group group = {calloc((size_t)count + 1, sizeof(Socket *)), 0, 0};
    if (!group.list) fail("no memory");
    for (int i = 0; i < count; i++)
        if (sockets[i].role == role) group.list[group.count++] = &sockets[i];
    return group;
}

static void connect_all(int at_once) {
    writers = group_of('w');
    flooders = group_of('f');
    uint64_t begin = now_ns();
    double cpu = cpu_seconds();
    int started = 0;
    while (upgraded < count) {
        while (started < count && started - upgraded < at_once) start_connecting(&sockets[started++]);
        if (upgraded < count && !turn(10000, 0))
            fail("only %d of %d sockets were accepted within 10 s of each other", upgraded, count);
    }
    double took = (now_ns() - begin) / 1e9, settled = took;
    cpu = cpu_seconds() - cpu;
    while (turn(300, 0)) settled = (now_ns() - begin) / 1e9;
    printf("{\"sockets\": %d, \"seconds\": %.6f, \"cpu_share\": %.4f, \"settled\": %.6f, \"deliveries\": %llu}\n", count, took,
        cpu / took, settled, (unsigned long long)counts.deliveries);
}

/* The number of messages that have not come back to their writers. */
static uint64_t outstanding(void) {
    uint64_t sum = 0;
    for (int i = 0; i < writers.count; i++) sum += writers.list[i]->sent - writers.list[i]->own;
    return sum;
}

/* Reads until everything has arrived, or nothing has for half a second. */
static void settle(void) {
    uint64_t patience = now_ns() + 30000000000u;
    for (int quiet = 0; quiet < (outstanding() ? 10 : 2);) {
        quiet = turn(50, 0) ? 0 : quiet + 1;
        if (now_ns() > patience) fail("30 s after the last message the server is not quiet");
    }
}

static void start_counting(void) {
    memset(&counts, 0, sizeof counts);
    memset(&latency, 0, sizeof latency);
    memset(&lateness, 0, sizeof lateness);
}

static void report(const Counts *c, double took, double cpu_share, uint64_t backlog) {
    printf("{\"deliveries\": %llu, \"to_consoles\": %llu, \"messages\": %llu, \"refused\": %llu, \"sent\": %llu, "
           "\"flooded\": %llu, \"backlog\": %llu, \"waiting\": %llu, \"seconds\": %.6f, \"cpu_share\": %.4f, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, \"late_p99_us\": %.1f}\n",
        (unsigned long long)c->deliveries, (unsigned long long)c->to_consoles, (unsigned long long)c->messages,
        (unsigned long long)c->refused, (unsigned long long)c->sent, (unsigned long long)c->flooded,
        (unsigned long long)backlog, (unsigned long long)outstanding(), took, cpu_share, quantile_us(&latency, .5),
        quantile_us(&latency, .99), quantile_us(&latency, .999), latency.most / 1e3, quantile_us(&lateness, .99));
    for (int i = 0; i < writers.count; i++) writers.list[i]->own = writers.list[i]->sent;
}

static void run_closed(double seconds, double warm, int flight) {
    uint64_t from = now_ns() + (uint64_t)(warm * 1e9), end = from + (uint64_t)(seconds * 1e9), now;
    double cpu = 0;
    int measuring = 0;
    in_flight = flight;
    for (int i = 0; i < writers.count; i++) top_up(writers.list[i]);
    while ((now = now_ns()) < end) {
        if (!measuring && now >= from) {
            measuring = 1;
            /* A closed loop sends less to a slow server, so its latencies would be wrong. */
            start_counting();
            from = now;
            cpu = cpu_seconds();
        }
        turn(50, 1);
    }
    Counts at_end = counts;
    double took = (now - from) / 1e9, cpu_share = (cpu_seconds() - cpu) / took;
    uint64_t backlog = outstanding();
    settle();
    report(&at_end, took, cpu_share, backlog);
}

typedef struct { Group *group; double rate; uint64_t begin, number; } Schedule;

static uint64_t due_of(const Schedule *schedule) {
    if (schedule->rate <= 0) return UINT64_MAX;
    return schedule->begin + (uint64_t)(schedule->number / schedule->rate * 1e9);
}

static void send_due(Schedule *schedule, uint64_t now) {
    Group *group = schedule->group;
    int in_a_row = 0;
    for (uint64_t due; (due = due_of(schedule)) <= now; schedule->number++) {
        char out[2048];
        /* After a time without the processor many messages are due: read what arrives in between. */
        if (++in_a_row % 32 == 0) turn(0, 0);
        Socket *s = group->list[group->at++ % group->count];
        if (s->role == 'w') {
            send_all(s, out, message(out, s, due));
            counts.sent += due >= counted_from;
            if (due >= counted_from) add(&lateness, now_ns() - due);
        } else if (!s->out_length) {
            /* A flooding socket sends as much as the server accepts. */
            send_all(s, out, message(out, s, due));
            counts.flooded += due >= counted_from;
        }
    }
}

/* Counts the messages due within the time, however late they were sent or came back, so that a stall changes no count. */
static void run_open(double seconds, double warm, double rate, double flood) {
    uint64_t begin = now_ns(), from = begin + (uint64_t)(warm * 1e9), end = from + (uint64_t)(seconds * 1e9), now;
    uint64_t measured_from = 0;
    Schedule schedules[] = {{&writers, rate, begin, 0}, {&flooders, flood, begin, 0}};
    double cpu = 0;
    for (int i = 0; i < 2; i++)
        if (schedules[i].rate > 0 && !schedules[i].group->count) fail("nobody is there to send at this rate");
    start_counting();
    counted_from = from;
    while ((now = now_ns()) < end) {
        if (!measured_from && now >= from) {
            measured_from = now;
            cpu = cpu_seconds();
        }
        for (int i = 0; i < 2; i++) send_due(&schedules[i], now);
        turn(0, 0);
        uint64_t next = end;
        for (int i = 0; i < 2; i++)
            if (due_of(&schedules[i]) < next) next = due_of(&schedules[i]);
        if (next > (now = now_ns())) {
            /* `epoll_wait` has a resolution of milliseconds; spinning would be exact, but hide the generator's own CPU share. */
            struct pollfd any = {poller, POLLIN, 0};
            struct timespec gap = {(time_t)((next - now) / 1000000000u), (long)((next - now) % 1000000000u)};
            ppoll(&any, 1, &gap, NULL);
        }
    }
    /* If the process was stopped for the whole time, there is nothing to report. */
    double cpu_share = measured_from ? (cpu_seconds() - cpu) / ((now - measured_from) / 1e9) : 0;
    for (int i = 0; i < 2; i++) send_due(&schedules[i], end - 1);
    uint64_t refused = counts.refused, backlog = outstanding();
    settle();
    counts.refused = refused;
    report(&counts, seconds, cpu_share, backlog);
    counted_from = 0;
}

static void add_socket(char role, const char *path, const char *headers) {
    if (count == capacity) {
        capacity = capacity ? capacity * 2 : 1024;
        sockets = realloc(sockets, (size_t)capacity * sizeof *sockets);
        if (!sockets) fail("no memory");
    }
    Socket *s = &sockets[count];
    memset(s, 0, sizeof *s);
    s->number = count++;
    s->role = role;
    s->path = strdup(path);
    s->headers = strdup(headers);
    s->tag_length = (size_t)snprintf(s->tag, sizeof s->tag, "w%06dw", s->number);
}

int main(void) {
    static char line[LINE * 2];
    poller = epoll_create1(0);
    prctl(PR_SET_TIMERSLACK, 1);
    while (fgets(line, sizeof line, stdin)) {
        char *fields[6] = {"", "", "", "", "", ""}, *at = line;
        line[strcspn(line, "\n")] = 0;
        for (int i = 0; i < 6 && at; i++) fields[i] = strsep(&at, "\t");
        const char *verb = fields[0];
        if (!strcmp(verb, "port")) port = atoi(fields[1]);
        else if (!strcmp(verb, "ids")) with_ids = 1;
        else if (!strcmp(verb, "wrap")) {
            wrap_before = strdup(fields[1]);
            wrap_behind = strdup(fields[2]);
            expected = strdup(fields[3]);
        } else if (!strcmp(verb, "greet")) greeting = strdup(fields[1]);
        else if (!strcmp(verb, "socket")) add_socket(*fields[1], fields[2], fields[3]);
        else if (!strcmp(verb, "sink")) {
            add_socket('f', "", "");
            add_socket('s', "", "");
        } else if (!strcmp(verb, "connect")) connect_all(atoi(fields[1]));
        else if (!strcmp(verb, "run")) run_closed(atof(fields[1]), atof(fields[2]), atoi(fields[3]));
        else if (!strcmp(verb, "rate")) run_open(atof(fields[1]), atof(fields[2]), atof(fields[3]), atof(fields[4]));
        else if (!strcmp(verb, "quit")) break;
        else fail("unknown line: %s", verb);
        fflush(stdout);
    }
    return 0;
}
