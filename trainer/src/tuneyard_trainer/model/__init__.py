"""A model directory in the Hugging Face layout."""
