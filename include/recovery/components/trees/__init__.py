"""What files and settings share: walking, packing, staging and exchanging trees."""
