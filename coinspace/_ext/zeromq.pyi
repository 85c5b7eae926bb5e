"""Has nothing for Python: only Cython code uses the addresses of libzmq's functions."""
