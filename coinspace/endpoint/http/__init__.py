"""The HTTP server: connections, WebSockets, admission, and the table of routes."""
