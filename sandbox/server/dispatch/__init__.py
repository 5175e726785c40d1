"""Between every kind of caller and the library: invokes, records, queues; knows nothing of HTTP."""
