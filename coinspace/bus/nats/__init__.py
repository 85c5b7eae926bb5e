"""The NATS transport: one connection per process, on a thread with an event loop of its own.

    link        the thread and its connection, which comes back by itself after an outage
    pumps       carry messages between this process's sockets and the servers
    subjects    topics and prefixes as NATS subjects
    transport   the interface of `coinspace/bus/transport.py`

A stage never waits for the servers: libzmq's queues between the threads are bounded, and what does
not fit is counted. Only this folder uses the NATS client.
"""
