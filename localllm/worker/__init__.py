"""The worker process: loads one model, evaluates it step by step, and speaks frames on its pipes."""
