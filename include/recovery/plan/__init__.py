"""A YAML file becomes a frozen, validated plan."""
