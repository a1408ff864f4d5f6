"""The HTTP edge: connections with limits, dispatch to endpoints, and the server's life."""
