"""How the bytes of one object come over HTTP: libcurl or aiohttp, behind one protocol."""
