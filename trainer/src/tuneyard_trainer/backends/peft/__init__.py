"""Training with Hugging Face PEFT."""
