"""When to try again: classification, waiting, and the runnable that does both."""
