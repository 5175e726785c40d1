/*
 * The inside of the network policy. The container has no network but loopback; init listens there
 * in the place of what the function may reach, and answers for the names that it may not.
 */
#ifndef NETWORK_H
#define NETWORK_H

#include <stddef.h>
#include <stdint.h>

/*
 * Listen on "ADDRESS:PORT=SOCKET": whoever connects there is connected to the Unix socket.
 * Returns 0, or -1 with a word on stderr.
 */
int network_forward(int epoll, const char *rule);

/* Answer DNS queries on 127.0.0.1 with "no such name", and remember them. May fail in silence. */
void network_dns(int epoll);

/* Handle an event that belongs to the network; `data` is the event's. */
void network_event(int epoll, void *data, uint32_t events);

/* Call when all events that were at hand are handled. */
void network_settle(void);

/* The names asked for, as the inside of a JSON list, and how many more there were. */
const char *network_denied(size_t *more);

#endif
