"""What Headscale's API looks like in each of its generations; `reconciler/mesh/headscale.py` is the client."""
