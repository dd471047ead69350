"""The stages. They never import torch: heavy work runs in worker processes."""
