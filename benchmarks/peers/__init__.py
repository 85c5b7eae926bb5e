"""The same work done by libraries that need a Python of their own: `make bench-peers`.

One module a library, named after it; each drives the library's own frame handler with our frames.
Only the socket of a library is replaced, so no module here needs a network.
"""
