#define _GNU_SOURCE
#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MOST_CONNECTIONS 256
/* In each direction of a connection; it counts against the function's memory. */
#define BUFFER 16384
/* How much one connection may do before the others have their turn. */
#define ROUNDS 8
#define MOST_NAMES 16
#define LONGEST_NAME 253

enum kind { LISTENER, DNS, CONNECTION };

/* What the events of one descriptor lead to. */
struct source {
    enum kind kind;
    int fd;
};

struct listener {
    struct source source;
    struct sockaddr_un to;
};

struct flow {
    size_t start, end;
    int ended; /* nothing more comes */
    int shut;  /* and the other side knows */
    char data[BUFFER];
};

struct connection;

struct side {
    struct source source;
    struct connection *connection;
    struct flow flow; /* what this side sent, on its way to the other */
};

struct connection {
    struct side sides[2];
    struct connection *next_closed;
};

static int connections;
/* Freed once all events at hand are handled: a later one may still point there. */
static struct connection *closed;

static void watch(int epoll, int operation, struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    epoll_ctl(epoll, operation, source->fd, &event);
}

int network_forward(int epoll, const char *rule)
{
    char address[INET_ADDRSTRLEN];
    unsigned port;
    int path = 0;
    struct sockaddr_in here = {.sin_family = AF_INET};
    struct listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL || sscanf(rule, "%15[0-9.]:%5u=%n", address, &port, &path) != 2 ||
        path == 0 || port > UINT16_MAX || inet_pton(AF_INET, address, &here.sin_addr) != 1 ||
        strlen(rule + path) >= sizeof listener->to.sun_path) {
        fprintf(stderr, "init: --forward takes ADDRESS:PORT=SOCKET, not %s\n", rule);
        return -1;
    }
    here.sin_port = htons(port);
    listener->to.sun_family = AF_UNIX;
    strcpy(listener->to.sun_path, rule + path);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&here, sizeof here) < 0 || listen(fd, 64) < 0) {
        fprintf(stderr, "init: cannot listen on %s:%u: %s\n", address, port, strerror(errno));
        return -1;
    }
    listener->source = (struct source){.kind = LISTENER, .fd = fd};
    watch(epoll, EPOLL_CTL_ADD, &listener->source, EPOLLIN);
    return 0;
}

static void finish(struct connection *connection)
{
    for (int i = 0; i < 2; i++)
        close(connection->sides[i].source.fd);
    connection->sides[0].source.fd = -1;
    connection->next_closed = closed;
    closed = connection;
    connections--;
}

static void take(int epoll, struct listener *listener)
{
    int from = accept4(listener->source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (from < 0)
        return;
    int to = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct connection *connection = NULL;
    if (to < 0 || connections >= MOST_CONNECTIONS ||
        connect(to, (struct sockaddr *)&listener->to, sizeof listener->to) < 0 ||
        (connection = calloc(1, sizeof *connection)) == NULL) {
        /* The client sees a reset: there is nobody who could say more. */
        struct linger now = {.l_onoff = 1};
        setsockopt(from, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(from);
        if (to >= 0)
            close(to);
        return;
    }
    connections++;
    for (int i = 0; i < 2; i++) {
        struct side *side = &connection->sides[i];
        side->source = (struct source){.kind = CONNECTION, .fd = i ? to : from};
        side->connection = connection;
        watch(epoll, EPOLL_CTL_ADD, &side->source, EPOLLIN);
    }
}

/* Move what one side has sent on to the other. Returns -1 if the connection is broken. */
static int pump(struct flow *flow, int from, int to)
{
    for (int round = 0; round < ROUNDS; round++) {
        if (flow->start == flow->end && !flow->ended) {
            ssize_t count = read(from, flow->data, BUFFER);
            if (count < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -1;
            flow->start = 0;
            flow->end = count;
            flow->ended = count == 0;
        }
        if (flow->start < flow->end) {
            ssize_t count = send(to, flow->data + flow->start, flow->end - flow->start, MSG_NOSIGNAL);
            if (count < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -1;
            flow->start += count;
        }
        if (flow->start == flow->end && flow->ended) {
            if (!flow->shut)
                shutdown(to, SHUT_WR);
            flow->shut = 1;
            return 0;
        }
    }
    return 0;
}

static void serve(int epoll, struct connection *connection, int fd, uint32_t events)
{
    struct side *sides = connection->sides;
    if (sides[0].source.fd < 0)
        return; /* closed by an event just before this one */
    if ((events & EPOLLERR) || pump(&sides[0].flow, sides[0].source.fd, sides[1].source.fd) < 0 ||
        pump(&sides[1].flow, sides[1].source.fd, sides[0].source.fd) < 0 ||
        (sides[0].flow.shut && sides[1].flow.shut)) {
        finish(connection);
        return;
    }
    for (int i = 0; i < 2; i++)
        if ((events & EPOLLHUP) && sides[i].source.fd == fd && sides[i].flow.shut) {
            finish(connection); /* gone in both directions: nobody takes what still comes */
            return;
        }
    for (int i = 0; i < 2; i++) {
        struct flow *sent = &sides[i].flow, *coming = &sides[1 - i].flow;
        uint32_t wanted = sent->start == sent->end && !sent->ended ? EPOLLIN : 0;
        wanted |= coming->start < coming->end ? EPOLLOUT : 0;
        watch(epoll, EPOLL_CTL_MOD, &sides[i].source, wanted);
    }
}

static char names[MOST_NAMES][LONGEST_NAME + 1];
static size_t name_count, more_names;

static void remember(const char *name)
{
    for (size_t i = 0; i < name_count; i++)
        if (strcmp(names[i], name) == 0)
            return;
    if (name_count == MOST_NAMES)
        more_names++;
    else
        strcpy(names[name_count++], name);
}

/* The name that a query asks for: lower case, and nothing in it that JSON would have to escape. */
static int parse_query(const unsigned char *query, size_t size, char *name, size_t *question_end)
{
    size_t at = 12, length = 0;
    if (size < at + 5 || (query[2] & 0x80) || query[4] != 0 || query[5] != 1)
        return -1;
    while (query[at] != 0) {
        size_t label = query[at++];
        if (label > 63 || at + label >= size || length + label + 1 > LONGEST_NAME)
            return -1;
        if (length > 0)
            name[length++] = '.';
        for (; label > 0; label--) {
            unsigned char c = query[at++];
            c = c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
            int plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
            name[length++] = plain ? c : '?';
        }
    }
    name[length] = '\0';
    *question_end = at + 5; /* the last, empty label; type and class */
    return length > 0 && *question_end <= size ? 0 : -1;
}

static void answer(int fd)
{
    unsigned char packet[512];
    struct sockaddr_storage client;
    socklen_t client_size = sizeof client;
    ssize_t size = recvfrom(fd, packet, sizeof packet, 0, (struct sockaddr *)&client, &client_size);
    char name[LONGEST_NAME + 1];
    size_t end;
    if (size < 0 || parse_query(packet, size, name, &end) < 0)
        return;
    remember(name);
    packet[2] = 0x80 | (packet[2] & 0x01); /* a response; recursion desired as it was */
    packet[3] = 0x80 | 3;                  /* recursion available; no such name */
    memset(packet + 6, 0, 6);              /* no records but the question */
    sendto(fd, packet, end, MSG_NOSIGNAL, (struct sockaddr *)&client, client_size);
}

void network_dns(int epoll)
{
    static struct source source = {.kind = DNS};
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(53)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    source.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (source.fd >= 0 && bind(source.fd, (struct sockaddr *)&here, sizeof here) == 0)
        watch(epoll, EPOLL_CTL_ADD, &source, EPOLLIN);
}

void network_event(int epoll, void *data, uint32_t events)
{
    struct source *source = data;
    if (source->kind == LISTENER)
        take(epoll, (struct listener *)source);
    else if (source->kind == DNS)
        answer(source->fd);
    else
        serve(epoll, ((struct side *)source)->connection, source->fd, events);
}

void network_settle(void)
{
    while (closed != NULL) {
        struct connection *next = closed->next_closed;
        free(closed);
        closed = next;
    }
}

const char *network_denied(size_t *more)
{
    static char list[MOST_NAMES * (LONGEST_NAME + 3) + 1];
    size_t length = 0;
    for (size_t i = 0; i < name_count; i++)
        length += sprintf(list + length, "%s\"%s\"", i ? "," : "", names[i]);
    *more = more_names;
    return list;
}
