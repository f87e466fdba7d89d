"""One module per step: linear, reversible, never changed once released.

A step does not import the table from ``idemtable.schema``, which moves on. It looks before it creates or drops, because
MariaDB and MySQL commit each statement of a migration and a killed one has to be healed by running it again: also an
earlier one, on a table that later steps have changed.
"""
