"""What calls used: values, reports, and the callback handlers that fill them."""
