"""A small shop: orders come in by HTTP, and jobs charge, label, confirm or undo them."""
