"""The stores that hold the entries: in memory, in one SQLite file, in an etcd cluster."""
