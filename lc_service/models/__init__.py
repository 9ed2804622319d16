"""The call itself: HTTP clients, one attempt, and the chat and embedding models around them."""
