"""A seeded market: prices, books and trades on a virtual clock, in each exchange's format.

Frames depend only on seed, markets, start and virtual time. The model uses only Mersenne Twister
and +, -, * and / on floats, which every machine rounds the same way.
"""
