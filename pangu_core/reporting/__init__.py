"""The report of a training run: its history, what to compare it with, and one page of HTML."""
