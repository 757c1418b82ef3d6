"""Our HTTP/1.1, server and client, on httptools and uvloop."""
