"""Bithumb's frames: a variant of Upbit's format."""

from coinspace._ext.upbit cimport UpbitParser

cdef class BithumbParser(UpbitParser):
    pass
