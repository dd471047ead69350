"""Object stores by URI scheme, and artifacts with manifests."""
