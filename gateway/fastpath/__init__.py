"""The fast path: NVGRE forwarded by a program in the kernel, decided as the Python pipeline decides."""
