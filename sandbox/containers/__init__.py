"""A real Docker Engine, stand-ins for the images that a registry would have, and docker-compose.yaml started with them."""
