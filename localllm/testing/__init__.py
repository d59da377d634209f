"""The test kit for plugin authors, and for this project: fake decoders, a decoder contract, tiny models."""
