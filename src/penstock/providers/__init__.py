"""Dialects of upstream APIs: bytes in, values out, no sockets."""
