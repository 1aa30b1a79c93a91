"""The supervisor process: start up, main loop, shut down, and the services it runs for each ring."""
