"""The processors that come with the product, and the registry that finds them."""
