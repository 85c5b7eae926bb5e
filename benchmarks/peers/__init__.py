"""The same work done by libraries that need an environment of their own: `make bench-peers`.

One module a library, named after it; each drives the library's own frame handler with our frames.
Nothing of a library is replaced but the socket that the frames would come from, so no module here
needs a network.
"""
