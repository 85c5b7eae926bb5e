"""The index computed again from books, recordings or stored rows, and compared with it."""
