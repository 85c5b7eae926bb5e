"""Sinks without sockets: they keep a stage's messages in a list, numbered as on the live bus."""

from coinspace._ext.sink import ListSink, Sink, Topic

__all__ = ["ListSink", "Sink", "Topic"]
