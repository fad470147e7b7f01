"""Folders of the Hugging Face library transformers, with the model's own code in them."""
