"""Where calls run: the port, and an adapter per strategy."""
