"""For tests, ours and yours: an image maker and a server with faults."""
