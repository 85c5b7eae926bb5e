"""The HTTP server: connections, WebSockets, what is admitted, and the table of routes."""
