"""The four rooms and the command line that starts and asks them."""
