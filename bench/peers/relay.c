/*
 * The least possible relay, as a limit to compare with: one epoll loop, no library, no checks. All messages of one round
 * go out in one send for each socket. It finds the text without parsing the JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, READ = 262144 };

typedef struct Room Room;
typedef struct { int fd, closed; Room *room; char *rest; size_t rest_length; char *out; size_t out_length; } Member;
struct Room { char path[128]; Member **members; int count, capacity, dirty; char *out; size_t length, space; Room *next; };

static Room *buckets[4096], *dirty[65536];
static int dirty_count, poller;
static uint64_t number;

/* SHA-1, for the handshake (RFC 3174). */
static void sha1(const unsigned char *data, size_t length, unsigned char *digest) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    unsigned char block[128] = {0};
    size_t total = length < 56 ? 64 : 128;
    memcpy(block, data, length);
    block[length] = 0x80;
    for (int i = 0; i < 8; i++) block[total - 1 - i] = (unsigned char)(length * 8 >> (8 * i));
    for (size_t at = 0; at < total; at += 64) {
        for (int i = 0; i < 16; i++) {
            unsigned char *b = block + at + 4 * i;
            w[i] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        }
        for (int i = 16; i < 80; i++) {
            uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
            w[i] = x << 1 | x >> 31;
        }
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
            uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
            uint32_t t = (a << 5 | a >> 27) + f + e + k + w[i];
            e = d; d = c; c = b << 30 | b >> 2; b = a; a = t;
        }
        h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const unsigned char *in, char *out) {
    static const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char padded[21] = {0};
    memcpy(padded, in, 20);
    for (int i = 0; i < 21; i += 3) {
        uint32_t v = (uint32_t)padded[i] << 16 | (uint32_t)padded[i + 1] << 8 | padded[i + 2];
        for (int j = 0; j < 4; j++) *out++ = letters[v >> (18 - 6 * j) & 63];
    }
    out[-1] = '=';
    *out = 0;
}

static Room *room_of(const char *path) {
    unsigned hash = 5381;
    for (const char *c = path; *c; c++) hash = hash * 33 + (unsigned char)*c;
    Room **bucket = &buckets[hash % 4096];
    for (Room *room = *bucket; room; room = room->next)
        if (!strcmp(room->path, path)) return room;
    Room *room = calloc(1, sizeof *room);
    snprintf(room->path, sizeof room->path, "%s", path);
    room->next = *bucket;
    return *bucket = room;
}

static void leave(Member *m) {
    Room *room = m->room;
    for (int i = 0; room && i < room->count; i++)
        if (room->members[i] == m) { room->members[i] = room->members[--room->count]; break; }
    close(m->fd);
    m->closed = 1;
}

static void write_out(Member *m, const char *data, size_t length) {
    if (!m->out_length) {
        ssize_t done = send(m->fd, data, length, MSG_NOSIGNAL);
        if (done < 0 && errno != EAGAIN) return;
        if (done > 0) { data += done; length -= (size_t)done; }
    }
    if (!length) return;
    m->out = realloc(m->out, m->out_length + length);
    memcpy(m->out + m->out_length, data, length);
    m->out_length += length;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = m};
    epoll_ctl(poller, EPOLL_CTL_MOD, m->fd, &event);
}

static void flush(Member *m) {
    ssize_t done = send(m->fd, m->out, m->out_length, MSG_NOSIGNAL);
    if (done > 0) { memmove(m->out, m->out + done, m->out_length - (size_t)done); m->out_length -= (size_t)done; }
    if (m->out_length) return;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = m};
    epoll_ctl(poller, EPOLL_CTL_MOD, m->fd, &event);
}

static void say(Room *room, const char *text, int size) {
    if (room->space - room->length < 4096) { room->space += 65536; room->out = realloc(room->out, room->space); }
    char *head = room->out + room->length;
    int length = snprintf(head + 4, 4000,
        "{\"type\":\"message_added\",\"data\":{\"message\":{\"id\":%llu,\"type\":\"standard\",\"type_role\":\"user\","
        "\"status\":\"new\",\"text\":\"%.*s\",\"send_time\":\"2026-01-20T16:31:04+00:00\",\"message_index\":%llu,\"chat\":{"
        "\"uuid\":\"d599cb9b-a451-4bb3-ac0c-1465b9a1c4de\",\"widget\":{\"source\":\"lk\"},\"status\":\"open\",\"owner_user\":{"
        "\"id\":4503599627370497,\"role\":\"user\",\"avatar\":\"\",\"lastname\":\"\",\"firstname\":\"Visitor\",\"patronymic\":\"\"},"
        "\"operator_user\":{\"id\":1,\"role\":\"operator\",\"avatar\":\"\",\"lastname\":\"\",\"firstname\":\"Operator\","
        "\"patronymic\":\"\"}},\"user\":{\"id\":4503599627370497,\"role\":\"user\",\"avatar\":\"\",\"lastname\":\"\","
        "\"firstname\":\"Visitor\",\"patronymic\":\"\"},\"attachments\":[]}}}",
        (unsigned long long)number, size, text, (unsigned long long)number);
    number++;
    head[0] = (char)0x81; head[1] = 126; head[2] = (char)(length >> 8); head[3] = (char)length;
    room->length += 4 + (size_t)length;
    if (!room->dirty) { room->dirty = 1; dirty[dirty_count++] = room; }
}

static size_t upgrade(Member *m, char *data, size_t length) {
    char *end = memmem(data, length, "\r\n\r\n", 4), *key, path[128], accept[32], answer[256];
    if (!end) return 0;
    *end = 0;
    sscanf(data, "GET %127s", path);
    key = strcasestr(data, "sec-websocket-key: ") + 19;
    unsigned char joined[64], digest[20];
    memcpy(joined, key, 24);
    memcpy(joined + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(joined, 60, digest);
    base64(digest, accept);
    int size = snprintf(answer, sizeof answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    Room *room = m->room = room_of(path);
    if (room->count == room->capacity) {
        room->capacity = room->capacity ? room->capacity * 2 : 4;
        room->members = realloc(room->members, (size_t)room->capacity * sizeof(Member *));
    }
    room->members[room->count++] = m;
    write_out(m, answer, (size_t)size);
    return (size_t)(end + 4 - data);
}

static void read_member(Member *m) {
    static char data[READ * 2];
    memcpy(data, m->rest, m->rest_length);
    ssize_t got = recv(m->fd, data + m->rest_length, READ, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { leave(m); return; }
    size_t length = m->rest_length + (size_t)got, at = m->room ? 0 : upgrade(m, data, length);
    while (m->room && length - at >= 6) {
        unsigned char *f = (unsigned char *)data + at;
        size_t size = f[1] & 127, head = 2;
        if (size == 126) { size = (size_t)f[2] << 8 | f[3]; head = 4; }
        if (length - at < head + 4 + size) break;
        unsigned char *mask = f + head;
        char *payload = (char *)mask + 4;
        if ((f[0] & 15) == 8) { leave(m); return; }
        for (size_t i = 0; i < size; i++) payload[i] ^= (char)mask[i & 3];
        char *text = memmem(payload, size, "\"text\":\"", 8), *stop = text ? strchr(text + 8, '"') : NULL;
        if (stop) say(m->room, text + 8, (int)(stop - text - 8));
        at += head + 4 + size;
    }
    m->rest_length = length - at;
    m->rest = realloc(m->rest, m->rest_length + 1);
    memcpy(m->rest, data + at, m->rest_length);
}

int main(int argc, char **argv) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "0"))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return perror("listen"), 1;
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            Member *m = events[i].data.ptr;
            if (!m) {
                for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    m = calloc(1, sizeof *m);
                    m->fd = fd;
                    event = (struct epoll_event){.events = EPOLLIN, .data.ptr = m};
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            if (m->closed) continue;
            if (events[i].events & EPOLLOUT) flush(m);
            if (events[i].events & ~(uint32_t)EPOLLOUT) read_member(m);
        }
        for (int i = 0; i < dirty_count; i++) {
            Room *room = dirty[i];
            for (int k = 0; k < room->count; k++) write_out(room->members[k], room->out, room->length);
            room->length = 0;
            room->dirty = 0;
        }
        dirty_count = 0;
    }
}
