"""PostgreSQL servers: dumped by pg_dump, restored beside the live databases, switched by renaming them."""
