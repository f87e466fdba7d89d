"""The protocol in Promela, which spin goes through in every order: `make model`."""
