"""Every setting of the product, and the forms in which it is documented."""
