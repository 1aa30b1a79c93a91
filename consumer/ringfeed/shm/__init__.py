"""The shared memory as a consumer sees it: layout, segments, lanes, semaphores. `shm_layout.md` is its contract."""
