"""Model files on disk: what their headers say, and which model a name stands for."""
