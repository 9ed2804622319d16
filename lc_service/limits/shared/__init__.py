"""Limits that several processes share through Redis (extra `redis`): Python learns them, Redis counts."""
