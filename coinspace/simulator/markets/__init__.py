"""A seeded market: prices, books and trades on a virtual clock, spelled as each exchange does.

    prices     what assets and the won are worth, step by step
    book       one side of a book; market: the orders and trades of one market
    korean     Upbit's and Bithumb's markets and frames; binance: Binance's
    spelling   numbers as text; engine: all markets in order of virtual time
    scenario   crises: curves over prices and a timetable of faults

Frames are a pure function of seed, markets, start and virtual time: only +, -, * and / on floats,
which every machine rounds alike, and Mersenne Twister.
"""
