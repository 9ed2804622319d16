"""LCEL chains composed from prompt templates; each factory takes the model it runs on."""
