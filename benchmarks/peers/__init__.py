"""Small servers that the product is compared with."""
