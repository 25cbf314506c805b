"""Who does the CPU work: inline, threads or processes, behind one protocol."""
