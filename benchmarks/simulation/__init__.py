"""A fleet of clients before one server, without wall time: the real limiter under clocks that are made up."""
