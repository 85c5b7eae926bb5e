"""Nothing for Python: the addresses of libzmq's functions are used from Cython only."""
