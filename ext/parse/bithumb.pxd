"""Bithumb's frames: Upbit's format with differences."""

from coinspace._ext.upbit cimport UpbitParser

cdef class BithumbParser(UpbitParser):
    pass
