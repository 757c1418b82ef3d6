"""The control plane: what runs in the parent."""
