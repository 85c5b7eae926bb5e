"""Messages between processes, over ZMQ or NATS, and the journals behind them.

In flow order:

    topics          names: KIND.EXCHANGE.MARKET. with a closing dot, so that prefixes do not overlap
    publisher       one PUB socket per process: never blocks, counts drops, sends heartbeats
    journal         a publisher writes each message to its journal first, in bounded segments
    subscriber      one SUB socket for several publishers: finds gaps and lost tails
    journal_server  answers requests for journal messages, on a thread of the publisher's process
    journal_client  fetches the messages that a subscriber missed
    segments        reads a journal folder on the same disk
    transport       the interface of the transports, and which one an endpoint has
    sockets         ZMQ: binding, connecting, CURVE keys
    nats            NATS: one connection per process
    guard           the allow-list of CURVE keys
    commands        `coinspace journal`

Memory is bounded: bus.high_water_mark messages per subscriber on either side, two mapped segments
per journal, one chunk per journal client. The message layout is in ext/bus/message.pxd, the journal
layout in ext/bus/record.pxd.
"""
