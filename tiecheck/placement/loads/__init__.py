"""What becomes of tie groups in a load under a device map, told without loading."""
