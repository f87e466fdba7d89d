"""The table of keys and its migrations, where a database has ways of its own."""
