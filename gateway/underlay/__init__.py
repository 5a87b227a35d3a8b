"""The datacenter side: NVGRE and rewritten packets on trio, and the machine that they come to."""
