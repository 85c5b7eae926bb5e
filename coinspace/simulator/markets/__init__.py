"""A seeded market: prices, books and trades on a virtual clock, in each exchange's format.

    prices     the worth of assets and of the won, step by step
    book       one side of a book; market: the orders and trades of one market
    korean     Upbit's and Bithumb's markets and frames; binance: Binance's
    spelling   numbers as text; engine: all markets in order of virtual time
    scenario   crises: price curves and a timetable of faults

Frames depend only on seed, markets, start and virtual time. The model uses only Mersenne Twister
and +, -, * and / on floats, which every machine rounds the same way.
"""
