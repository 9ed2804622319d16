"""How fast: one limiter for each endpoint, credential and model, which learns what the server allows."""
