"""Messages over ZMQ, and the journals behind them; the only folder that knows zmq.

In flow order:

    topics          names: KIND.EXCHANGE.MARKET. with a closing dot, so that prefixes do not overlap
    sink            where stages publish to; `ListSink` keeps the messages, without a socket
    publisher       one PUB socket per process: never blocks, counts drops, sends heartbeats
    journal         what is published is written first, in bounded segments
    subscriber      one SUB socket for several publishers: drains, finds gaps and lost tails
    journal_server  the journal's side socket, on a thread of the publisher's process
    journal_client  its client: fetches what a subscriber missed
    segments        a journal folder as files, for whoever has it on the same disk
    sockets         binding, connecting, CURVE keys; guard: their allow-list
    commands        `coinspace journal`

Memory is bounded: per subscriber by bus.high_water_mark messages on either side, per journal by two
mapped segments, per client of a journal by one chunk. A message's layout is in
ext/bus/message.pxd, a journal's in ext/bus/record.pxd.
"""
