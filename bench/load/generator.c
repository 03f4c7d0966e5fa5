/*
 * Owns the load: many websockets to one loopback port in one thread, driven by epoll, so that the generator is far from
 * being the limit. It says what share of a core it took.
 *
 * On standard input, a line each, fields split by tabs:
 *   port N                   where to connect, on 127.0.0.1
 *   ids                      give every message a client_id of its own
 *   wrap A B C               put A before and B behind what is sent; C is how a delivery starts (else a message_added)
 *   greet TEXT               send TEXT when the first frame has come (Socket.IO)
 *   socket ROLE PATH HEADERS one websocket; ROLE is w (writes) or r (reads); HEADERS are lines split by \x1f
 *   connect N                connect all of them, N handshakes at a time, and wait till all is quiet
 *   run SECONDS WARM FLIGHT  closed loop: every writer keeps FLIGHT messages on their way
 *   rate SECONDS WARM RATE   open loop: RATE messages a second in all, round the writers, on schedule whatever happens
 *   quit
 * connect, run and rate are answered with a line of JSON. Latency is counted from when a message was due, so that
 * a server that stalls is not spared (coordinated omission). Any failure ends the program with status 1 and a line.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SCRATCH = 1 << 20, LINE = 16384, BATCH = 1024, SUB = 64, BUCKETS = 64 * SUB };

typedef struct {
    int fd, number, connected, greeted;
    char writes, *path, *headers, tag[24];
    size_t tag_length;
    uint64_t sent, own;     /* messages sent, and those of them that came back */
    char *rest;             /* the beginning of a frame that has not arrived whole */
    size_t rest_length, rest_room;
} Socket;

static Socket *sockets;
static int count, capacity, upgraded, poller, port, with_ids, counting, in_flight;
static char *wrap_before = "", *wrap_behind = "", *expected = NULL, *greeting = NULL;
static uint64_t deliveries, messages, histogram[BUCKETS], latest_ns;
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

static double quantile_us(double share) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += histogram[i];
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (total && seen >= share * total) return value_of(i) / 1e3;
    }
    return 0;
}

static void send_all(Socket *s, const char *data, size_t length) {
    while (length) {
        ssize_t done = send(s->fd, data, length, MSG_NOSIGNAL);
        if (done < 0 && errno == EAGAIN) {
            struct pollfd waiting = {s->fd, POLLOUT, 0};
            if (poll(&waiting, 1, 10000) <= 0) fail("the server took nothing for 10 s on %s", s->path);
            continue;
        }
        if (done < 0) fail("sending to %s: %s", s->path, strerror(errno));
        data += done;
        length -= (size_t)done;
    }
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

static int is_delivery(const char *payload, size_t length) {
    static const char *starts[] = {"{\"type\":\"message_added\"", "{\"type\": \"message_added\""};
    if (expected) return length > strlen(expected) && !memcmp(payload, expected, strlen(expected));
    for (int i = 0; i < 2; i++)
        if (length > 25 && !memcmp(payload, starts[i], strlen(starts[i]))) return 1;
    return 0;
}

static void take_text(Socket *s, const char *payload, size_t length) {
    if (!s->greeted && greeting) {
        char out[512];
        s->greeted = 1;
        send_all(s, out, frame(out, 1, greeting, strlen(greeting)));
        return;
    }
    if (!is_delivery(payload, length)) return;
    deliveries++;
    if (counting) {
        const char *at = memmem(payload, length, " t=", 3);
        if (at && at + 23 <= payload + length) {
            uint64_t due = strtoull(at + 3, NULL, 10), now = now_ns();
            uint64_t late = now > due ? now - due : 0;
            histogram[bucket_of(late)]++;
            if (late > latest_ns) latest_ns = late;
        }
    }
    if (s->writes && memmem(payload, length, s->tag, s->tag_length)) {
        s->own++;
        messages++;
    }
}

/* Take every whole frame from the front of `data`; how many bytes that was. */
static size_t take_frames(Socket *s, char *data, size_t length) {
    size_t at = 0;
    while (length - at >= 2) {
        unsigned char first = (unsigned char)data[at], second = (unsigned char)data[at + 1];
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
    while (s->sent - s->own < (uint64_t)in_flight && length < sizeof out - 2048)
        length += message(out + length, s, now_ns());
    if (length) send_all(s, out, length);
}

static int turn(int timeout_ms, int closed_loop) {
    struct epoll_event events[BATCH];
    int ready = epoll_wait(poller, events, BATCH, timeout_ms);
    for (int i = 0; i < ready; i++) {
        Socket *s = events[i].data.ptr;
        read_socket(s);
        if (closed_loop && s->writes) top_up(s);
    }
    return ready;
}

static void start_connecting(Socket *s) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    /* Beyond 28,000 sockets one local address has no ports left: spread them over 127.0.0.2 and on. */
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001u + (uint32_t)(s->number / 20000))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (s->fd < 0) fail("socket %d: %s", s->number, strerror(errno));
    int on = 1;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (s->number >= 20000 && bind(s->fd, (struct sockaddr *)&from, sizeof from)) fail("bind: %s", strerror(errno));
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address)) fail("port %d: %s", port, strerror(errno));
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
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
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &event)) fail("epoll: %s", strerror(errno));
    send_all(s, out, (size_t)length);
}

static void connect_all(int at_once) {
    uint64_t begin = now_ns();
    double cpu = cpu_seconds();
    int started = 0;
    while (upgraded < count) {
        while (started < count && started - upgraded < at_once) start_connecting(&sockets[started++]);
        if (!turn(10000, 0)) fail("only %d of %d sockets were accepted within 10 s of each other", upgraded, count);
    }
    double took = (now_ns() - begin) / 1e9, settled = took;
    cpu = cpu_seconds() - cpu;
    while (turn(500, 0)) settled = (now_ns() - begin) / 1e9;
    printf("{\"sockets\": %d, \"seconds\": %.6f, \"cpu_share\": %.4f, \"settled\": %.6f, \"deliveries\": %llu}\n", count, took,
        cpu / took, settled, (unsigned long long)deliveries);
}

static void report(double took, double cpu, uint64_t sent) {
    uint64_t waiting = 0;
    for (int i = 0; i < count; i++)
        if (sockets[i].writes) waiting += sockets[i].sent - sockets[i].own;
    printf("{\"deliveries\": %llu, \"messages\": %llu, \"sent\": %llu, \"waiting\": %llu, \"seconds\": %.6f, \"cpu_share\": %.4f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n",
        (unsigned long long)deliveries, (unsigned long long)messages, (unsigned long long)sent, (unsigned long long)waiting,
        took, cpu / took, quantile_us(.5), quantile_us(.99), quantile_us(.999), latest_ns / 1e3);
}

static void reset(void) {
    deliveries = messages = latest_ns = 0;
    memset(histogram, 0, sizeof histogram);
}

static void settle(void) {
    /* What is on its way belongs to this run, not to the next. */
    counting = 0;
    for (int quiet = 0; quiet < 5;) quiet = turn(100, 0) ? 0 : quiet + 1;
    for (int i = 0; i < count; i++) sockets[i].own = sockets[i].sent;
}

static void run_closed(double seconds, double warm, int flight) {
    in_flight = flight;
    counting = 0;
    uint64_t begin = now_ns(), from = begin + (uint64_t)(warm * 1e9), end = from + (uint64_t)(seconds * 1e9);
    double cpu = 0;
    int measuring = 0;
    for (int i = 0; i < count; i++)
        if (sockets[i].writes) top_up(&sockets[i]);
    for (;;) {
        uint64_t now = now_ns();
        if (!measuring && now >= from) {
            measuring = 1;
            reset();
            from = now;
            cpu = cpu_seconds();
        }
        if (now >= end) {
            report((now - from) / 1e9, cpu_seconds() - cpu, messages);
            break;
        }
        turn(50, 1);
    }
    in_flight = 0;
    settle();
}

static void run_open(double seconds, double warm, double rate) {
    uint64_t begin = now_ns(), from = begin + (uint64_t)(warm * 1e9), end = from + (uint64_t)(seconds * 1e9);
    uint64_t number = 0, sent = 0;
    double cpu = 0;
    int writer = 0, measuring = 0;
    in_flight = 0;
    for (;;) {
        uint64_t now = now_ns();
        if (!measuring && now >= from) {
            measuring = counting = 1;
            reset();
            sent = 0;
            from = now;
            cpu = cpu_seconds();
        }
        if (now >= end) break;
        uint64_t due = begin + (uint64_t)(number / rate * 1e9);
        while (due <= now) {
            do writer = (writer + 1) % count; while (!sockets[writer].writes);
            char out[2048];
            send_all(&sockets[writer], out, message(out, &sockets[writer], due));
            sent++;
            number++;
            due = begin + (uint64_t)(number / rate * 1e9);
        }
        uint64_t gap = due - now;
        /* Nearly due: no sleep that could come too late. */
        turn(gap > 2000000 ? (int)(gap / 1000000) - 1 : 0, 0);
    }
    double took = (now_ns() - from) / 1e9;
    cpu = cpu_seconds() - cpu;
    /* Those on their way count, as late as they are. */
    for (int quiet = 0; quiet < 5;) quiet = turn(100, 0) ? 0 : quiet + 1;
    report(took, cpu, sent);
    settle();
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
    s->writes = role == 'w';
    s->path = strdup(path);
    s->headers = strdup(headers);
    s->tag_length = (size_t)snprintf(s->tag, sizeof s->tag, "w%06dw", s->number);
}

int main(void) {
    static char line[LINE * 2];
    poller = epoll_create1(0);
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
        else if (!strcmp(verb, "connect")) connect_all(atoi(fields[1]));
        else if (!strcmp(verb, "run")) run_closed(atof(fields[1]), atof(fields[2]), atoi(fields[3]));
        else if (!strcmp(verb, "rate")) run_open(atof(fields[1]), atof(fields[2]), atof(fields[3]));
        else if (!strcmp(verb, "quit")) break;
        else fail("unknown line: %s", verb);
        fflush(stdout);
    }
    return 0;
}
