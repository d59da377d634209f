"""Bytes on the pipe between the server and a worker: frames, and the messages inside them."""
