"""The datacenter side: raw GRE sockets on trio, and the machine that they live on."""
