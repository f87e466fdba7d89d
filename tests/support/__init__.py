"""What the tests share."""

import os

PATIENCE = 60.0
"""Seconds after which a call that should have come back is a failure."""

# PyMySQL reads the machine's certificates for each connection, here and in the processes that tests start: fifty times what
# a connection costs. No test asks for anything over TLS.
os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
