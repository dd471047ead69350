"""Training with Hugging Face PEFT."""

import logging

# On import it asks a hub for CPU kernels, warns that it got none, and works as well without them.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
