"""Clusters that really run, under load, with nodes that are killed: `make clusters`."""
