"""MongoDB servers: read at one cluster time, restored beside the live collections, switched by renaming them."""
