"""What is known of torch modules, optimizer steps, compilation and processes."""
