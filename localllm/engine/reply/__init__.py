"""Readers of what a model wrote: thoughts, content and calls, in the notation of its family."""
