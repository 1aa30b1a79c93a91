"""How a worker gets the bytes of its pairs: one congestion window, one state machine for each download."""
